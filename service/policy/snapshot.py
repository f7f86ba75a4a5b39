"""The immutable artefact that serves: a folder with `policy.safetensors`, `item_ids.json` and `manifest.json`.

The manifest holds the SHA-256 of every other file; a folder whose hashes do not fit is refused, and so is one that fits
but could not serve: other tensors than its network has, numbers out of range. The snapshot that pre-training writes
also carries its catalogue (`items.jsonl`, `embeddings.safetensors`), so that a service can start from it alone. No
pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file as load_tensor_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.durable import write_folder
from service.policy.adaptive import ServingConfig, ServingPolicy
from service.policy.exact_policy import ExactPolicy
from service.policy.fast_scorer import FastScorer, is_curious, item_numbers, width_of
from service.policy.learner import prefixed, under
from service.policy.networks import ITEM_STATE, ItemScorer, NetworkConfig
from service.policy.rows import Rows
from service.policy.text import TEXT_DIM, Embeddings, TextProjection

FORMAT = 3  # 1: networks with a recurrent encoder; 2: without taste, and with one gain of the prior
_TENSORS, _ITEM_IDS, _MANIFEST = "policy.safetensors", "item_ids.json", "manifest.json"
_ITEMS, _EMBEDDINGS = "items.jsonl", "embeddings.safetensors"

T = TypeVar("T")
_LARGE = 64 * 2**20  # bytes of a file that is not taken into memory whole
_AT_ONCE = 8_192  # items
_ROOM = 1_024  # for items that come later
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class SnapshotError(Exception):
    """A snapshot is missing, unfinished, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is and where it came from."""

    version: _Count
    parent: _Count | None
    created_at: float  # unix seconds
    text_encoder: Annotated[str, Meta(pattern="^(minilm|hashing)$")]
    network: NetworkConfig
    serving: ServingConfig
    n_items: _Count
    catalogue_hash: str  # SHA-256 of the item ids in order
    learner: dict[str, Any] = field(default_factory=dict)  # name and configuration
    lineage: dict[str, Any] = field(default_factory=dict)  # what it learned from: run, log position, counters
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by file name
    format: int = FORMAT

    @property
    def has_catalogue(self) -> bool:
        """Whether texts and embeddings of the items are there, as a deployment needs them to begin."""
        return _ITEMS in self.files

    @property
    def weights(self) -> str:
        """SHA-256 of the weights' file: what the policy is, whatever version it is called."""
        return self.files.get(_TENSORS, "")


@dataclass(frozen=True)
class _Format:
    format: int


@dataclass(frozen=True)
class Snapshot:
    """A policy's weights with its manifest and the ids of its item rows."""

    manifest: Manifest
    item_ids: tuple[str, ...]
    tensors: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        *,
        version: int,
        parent: int | None,
        created_at: float,
        item_ids: tuple[str, ...],
        text_encoder: str,
        projection: TextProjection,
        serving: ServingConfig,
        pretrained: ItemScorer,
        learned: ItemScorer,
        critic: ItemScorer,
        learner: dict[str, Any],
        lineage: dict[str, Any],
        metrics: dict[str, float],
    ) -> Snapshot:
        """Take copies of the weights as they are now; the nets' rows are `item_ids` in order.

        A critic that is the learned network itself is stored once.
        """
        tensors = {"text.mean": projection.mean, "text.components": projection.components}
        nets = {"pretrained": pretrained, "learned": learned} | ({} if critic is learned else {"critic": critic})
        for name, net in nets.items():
            assert net.n_items == len(item_ids), f"{name} has {net.n_items} rows for {len(item_ids)} items"
            tensors |= prefixed(name, net.state_dict())
        manifest = Manifest(
            version=version,
            parent=parent,
            created_at=created_at,
            text_encoder=text_encoder,
            network=pretrained.config,
            serving=serving,
            n_items=len(item_ids),
            catalogue_hash=catalogue_hash(item_ids),
            learner=learner,
            lineage=lineage,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},  # JSON knows no others
        )
        return cls(manifest, item_ids, {name: tensor.detach().clone() for name, tensor in tensors.items()})

    @property
    def projection(self) -> TextProjection:
        """How this snapshot reads text embeddings."""
        return TextProjection(self.tensors["text.mean"], self.tensors["text.components"])

    @property
    def has_critic(self) -> bool:
        """Whether the critic is a network of its own, not the learned one."""
        return bool(under("critic", self.tensors))

    def network(self, name: str, text: Tensor) -> ItemScorer:
        """The network "pretrained", "learned" or "critic" for projected `text` [n_items, text_dim] in row order."""
        network = ItemScorer(self.manifest.network, text)
        network.load_state_dict(under(name, self.tensors))
        return network.requires_grad_(False)

    def exact_policy(self, text: Tensor) -> ExactPolicy:
        """The policy for a catalogue whose first rows are `item_ids`; `text` [A, text_dim] may hold new items after."""
        known = text[: len(self.item_ids)]
        pretrained, learned = (self.network(name, known).with_text(text) for name in ("pretrained", "learned"))
        critic = self.network("critic", known).with_text(text) if self.has_critic else learned
        return ExactPolicy(pretrained, learned, critic, self.manifest.serving)

    def serving_policy(
        self, embeddings: npt.NDArray[np.floating], pretrained: FastScorer | None = None
    ) -> ServingPolicy:
        """What serves a catalogue with text `embeddings` [A, TEXT_DIM], whose first rows are `item_ids`.

        `pretrained`: the pre-trained network for this catalogue, where it has been made before.
        """
        names = (["learned"] if pretrained else ["pretrained", "learned"]) + ["critic"] * self.has_critic
        made = self._fast_scorers(names, embeddings)
        first, learned = pretrained or made["pretrained"], made["learned"]
        return ServingPolicy(first, learned, made.get("critic", learned), self.manifest.serving)

    def _fast_scorers(self, names: Sequence[str], embeddings: npt.NDArray[np.floating]) -> dict[str, FastScorer]:
        """Networks for all items; made part by part, so that nothing else of their size is needed."""
        sizes, n_items = self.manifest.network, len(embeddings)
        numbers = {name: np.empty((n_items + _ROOM, width_of(sizes) + 3), np.float32) for name in names}
        for start in range(0, n_items, _AT_ONCE):
            part = slice(start, min(n_items, start + _AT_ONCE))
            text = self.projection(torch.from_numpy(embeddings[part].astype(np.float32)))
            for name in names:
                numbers[name][part] = item_numbers(self._part(name, text, part).with_text(text))
        return {
            name: FastScorer(
                self._part(name, torch.empty(0, sizes.text_dim), slice(0)),
                Rows(numbers[name], n_items),
                n_items,
                is_curious(sizes, self.tensors[f"{name}.information"]),
            )
            for name in names
        }

    def _part(self, name: str, text: Tensor, part: slice) -> ItemScorer:
        """A network with those of the items `part` that it knows; `text` is of all of them."""
        state = under(name, self.tensors)
        known = {key: state[key][part] for key in ITEM_STATE}
        network = ItemScorer(self.manifest.network, text[: len(known["id_bias"])])
        network.load_state_dict(state | known)
        return network.requires_grad_(False)

    def digest(self, name: str) -> str:
        """Of all that a network's scores depend on but the items' texts."""
        tensors = under(name, self.tensors) | under("text", self.tensors)
        digest = hashlib.blake2b(repr(self.manifest.network).encode())
        for key in sorted(tensors):
            digest.update(tensors[key].numpy().data)
        return digest.hexdigest()

    def without_items(self) -> Snapshot:
        """What says of the version all but its items' numbers and names, which may be very many."""
        text = {name: t.clone() for name, t in self.tensors.items() if name.startswith("text.")}
        return Snapshot(self.manifest, (), text)  # copies: a part of a file's memory would keep all of it


def catalogue_hash(item_ids: tuple[str, ...]) -> str:
    """Hex SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(item_ids).encode()).hexdigest()


@dataclass(frozen=True)
class CatalogueItem:
    """An item of the catalogue that a pre-trained snapshot carries."""

    item_id: str
    text: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotCatalogue:
    """The items of a snapshot in row order, with their text embeddings."""

    items: tuple[CatalogueItem, ...]
    embeddings: Embeddings  # [n_items, TEXT_DIM]


def save_snapshot(snapshot: Snapshot, folder: Path, catalogue: SnapshotCatalogue | None = None) -> Manifest:
    """Write the snapshot to `folder`, which must not exist, and return its manifest with the files' hashes.

    The folder appears whole: it is written beside its place, flushed to disk and renamed.
    """
    blobs = {
        _TENSORS: save_tensors(snapshot.tensors),
        _ITEM_IDS: json.dumps(snapshot.item_ids).encode(),
    }
    if catalogue is not None:
        assert tuple(item.item_id for item in catalogue.items) == snapshot.item_ids
        rows = (json.dumps(asdict(item), ensure_ascii=False) for item in catalogue.items)
        blobs[_ITEMS] = "".join(f"{row}\n" for row in rows).encode()
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
    for given, known in ((raw, Manifest), (raw["network"], NetworkConfig), (raw["serving"], ServingConfig)):
        if unknown := given.keys() - {f.name for f in fields(known)}:  # a damaged name would leave us with a default
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
    _check_tensors(tensors, manifest, folder / _TENSORS)
    return Snapshot(manifest, item_ids, tensors)


def load_catalogue(folder: Path) -> SnapshotCatalogue:
    """Read the catalogue that a pre-trained snapshot carries.

    Raises:
        SnapshotError: it carries none, or a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    # As bytes: text would also be split at U+2028 and its kind, which JSON leaves as they are inside an item's text.
    rows = _read_checked(folder, _ITEMS, manifest).splitlines()
    items = tuple(_decoded(row, CatalogueItem, folder / _ITEMS) for row in rows)
    _check_ids(tuple(item.item_id for item in items), manifest, folder / _ITEMS)
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
        shapes |= {key: tuple(tensor.shape) for key, tensor in prefixed(name, network.state_dict()).items()}
    _check_shapes(tensors, shapes, path)


def _check_shapes(tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    if different := tensors.keys() ^ shapes.keys():
        raise SnapshotError(f"{path}: {min(different)!r} is missing, or is no tensor of this network")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name] or tensor.dtype not in (torch.float32, torch.float16):
            raise SnapshotError(f"{path}: {name}: {tensor.dtype} {tuple(tensor.shape)}, expected {shapes[name]}")
        if not torch.isfinite(tensor).all():
            raise SnapshotError(f"{path}: {name}: holds numbers that are not finite")


def _read_tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The policy's tensors. A large file stays on the disk, and its parts are read when they are used."""
    path = folder / _TENSORS
    try:
        if path.stat().st_size < _LARGE:
            return _tensors(_read_checked(folder, _TENSORS, manifest), path)
        with path.open("rb") as file:
            _check_digest(hashlib.file_digest(file, "sha256").hexdigest(), folder, _TENSORS, manifest)
        return load_tensor_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None
    except OSError:
        return _tensors(_read_checked(folder, _TENSORS, manifest), path)  # which says what is wrong


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
