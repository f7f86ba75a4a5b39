"""A snapshot on disk, which never changes: a folder with `policy.safetensors`, `item_ids.json` and `manifest.json`.

The manifest holds the SHA-256 of every other file; a folder whose hashes do not fit is refused, and so is one that fits
but could not serve: other tensors than its network has, numbers out of range. The snapshot that pre-training writes
also carries its catalogue (`items.jsonl`, `embeddings.safetensors`), so that a service can start from it alone. No
pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file as load_tensor_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.durable import write_folder
from service.policy.learner import prefixed, under
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.snapshot import (
    FORMAT,
    ITEMS_FILE,
    POLICY_FILE,
    CatalogueItem,
    Manifest,
    Snapshot,
    SnapshotCatalogue,
    SnapshotError,
    catalogue_hash,
)
from service.policy.text import TEXT_DIM
from service.policy.variants import ServingConfig

_ITEM_IDS, _MANIFEST = "item_ids.json", "manifest.json"
_EMBEDDINGS = "embeddings.safetensors"
T = TypeVar("T")
_NUMBERS, _EXACT = (torch.float32, torch.float16), (torch.float64,)
_LARGE = 64 * 2**20  # bytes of a file that is not taken into memory whole


@dataclass(frozen=True)
class _Format:
    format: int


def save_snapshot(snapshot: Snapshot, folder: Path, catalogue: SnapshotCatalogue | None = None) -> Manifest:
    """Write the snapshot to `folder`, which must not exist, and return its manifest with the files' hashes.

    The folder appears whole: it is written beside its place, flushed to disk and renamed.
    """
    blobs = {
        POLICY_FILE: save_tensors(snapshot.tensors),
        _ITEM_IDS: json.dumps(snapshot.item_ids).encode(),
    }
    if catalogue is not None:
        assert tuple(item.item_id for item in catalogue.items) == snapshot.item_ids
        rows = (json.dumps(asdict(item), ensure_ascii=False) for item in catalogue.items)
        blobs[ITEMS_FILE] = "".join(f"{row}\n" for row in rows).encode()
        embeddings = torch.from_numpy(catalogue.embeddings.astype(np.float16))
        blobs[_EMBEDDINGS] = save_tensors({"embeddings": embeddings})
    hashes = {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}
    manifest = replace(snapshot.manifest, files=hashes)
    blobs[_MANIFEST] = (json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n").encode()
    write_folder(folder, blobs)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        SnapshotError: it is missing, damaged or of another format.
    """
    path = folder / _MANIFEST
    data = _read(path)
    written = _decoded(data, _Format, path).format
    if written != FORMAT:
        again = ": run `python -m offline pretrain` again" if written < FORMAT else ""
        raise SnapshotError(f"{path}: format {written}, this version reads {FORMAT}{again}")
    manifest, raw = _decoded(data, Manifest, path), _decoded(data, dict[str, Any], path)
    for given, expected in ((raw, Manifest), (raw["network"], NetworkConfig), (raw["serving"], ServingConfig)):
        if unknown := given.keys() - {f.name for f in fields(expected)}:  # a damaged name would leave us with a default
            raise SnapshotError(f"{path}: damaged (unknown field {min(unknown)!r})")
    return manifest


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot and check it against its manifest's hashes.

    Raises:
        SnapshotError: a file is missing or is not what the manifest says.
    """
    manifest = read_manifest(folder)
    item_ids = _decoded(_read_checked(folder, _ITEM_IDS, manifest), tuple[str, ...], folder / _ITEM_IDS)
    _check_ids(item_ids, manifest, folder / _ITEM_IDS)
    tensors = _read_tensors(folder, manifest)
    _check_tensors(tensors, manifest, folder / POLICY_FILE)
    return Snapshot(manifest, item_ids, tensors)


def load_catalogue(folder: Path) -> SnapshotCatalogue:
    """Read the catalogue that a pre-trained snapshot carries.

    Raises:
        SnapshotError: it carries none, or a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    # As bytes: text would also be split at U+2028 and its kind, which JSON leaves as they are inside an item's text.
    rows = _read_checked(folder, ITEMS_FILE, manifest).splitlines()
    items = tuple(_decoded(row, CatalogueItem, folder / ITEMS_FILE) for row in rows)
    _check_ids(tuple(item.item_id for item in items), manifest, folder / ITEMS_FILE)
    tensors = _tensors(_read_checked(folder, _EMBEDDINGS, manifest), folder / _EMBEDDINGS)
    _check_shapes(tensors, {"embeddings": (len(items), TEXT_DIM)}, folder / _EMBEDDINGS)
    return SnapshotCatalogue(items, tensors["embeddings"].float().numpy())


def _check_ids(item_ids: tuple[str, ...], manifest: Manifest, path: Path) -> None:
    distinct = len(set(item_ids)) == len(item_ids) == manifest.n_items
    if not distinct or catalogue_hash(item_ids) != manifest.catalogue_hash:
        raise SnapshotError(f"{path}: is not the catalogue that the manifest names")


def _check_tensors(tensors: dict[str, Tensor], manifest: Manifest, path: Path) -> None:
    """They are those of the manifest's network; its sizes are compared before anything is allocated by them."""
    sizes = manifest.network
    with torch.device("meta"):
        network = ItemScorer(sizes, torch.empty(manifest.n_items, sizes.text_dim))
    shapes: dict[str, tuple[int, ...]] = {"text.mean": (TEXT_DIM,), "text.components": (TEXT_DIM, sizes.text_dim)}
    critic = ["critic"] if under("critic", tensors) else []
    for name in ("pretrained", "learned", *critic):
        network.context = None
        if f"{name}.context" in tensors:
            network.begin_context()
        shapes |= {key: tuple(tensor.shape) for key, tensor in prefixed(name, network.state_dict()).items()}
    if under("evidence", tensors):
        n, width = manifest.n_items, sum(map(len, network.linear_weights()))
        shapes |= {"evidence.shared": (width, width), "evidence.by_item": (n, width), "evidence.information": (n,)}
    _check_shapes(tensors, shapes, path)


def _check_shapes(tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    if different := tensors.keys() ^ shapes.keys():
        raise SnapshotError(f"{path}: {min(different)!r} is missing, or is not a tensor of this network")
    for name, tensor in tensors.items():
        exact = name in ("evidence.shared", "evidence.by_item")
        if tuple(tensor.shape) != shapes[name] or tensor.dtype not in (_EXACT if exact else _NUMBERS):
            raise SnapshotError(f"{path}: {name}: {tensor.dtype} {tuple(tensor.shape)}, expected {shapes[name]}")
        if not torch.isfinite(tensor).all():
            raise SnapshotError(f"{path}: {name}: holds numbers that are not finite")


def _read_tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The policy's tensors. A large file stays on the disk, and its parts are read when they are used."""
    path = folder / POLICY_FILE
    try:
        if path.stat().st_size < _LARGE:
            return _tensors(_read_checked(folder, POLICY_FILE, manifest), path)
        with path.open("rb") as file:
            _check_digest(hashlib.file_digest(file, "sha256").hexdigest(), folder, POLICY_FILE, manifest)
        return load_tensor_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None
    except OSError:
        return _tensors(_read_checked(folder, POLICY_FILE, manifest), path)  # which says what is wrong


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None


def _decoded(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotError(f"{path}: not found") from None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror})") from None


def _read_checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    data = _read(folder / name)
    _check_digest(hashlib.sha256(data).hexdigest(), folder, name, manifest)
    return data


def _check_digest(digest: str, folder: Path, name: str, manifest: Manifest) -> None:
    if digest != manifest.files.get(name):
        raise SnapshotError(f"{folder / name}: SHA-256 differs from the manifest's")
