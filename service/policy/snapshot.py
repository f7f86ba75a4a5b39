"""The immutable artefact that serves: a folder with `policy.safetensors`, `item_ids.json` and `manifest.json`.

The manifest holds the SHA-256 of every other file; a folder whose hashes do not fit is refused. The snapshot that
pre-training writes also carries its catalogue (`items.jsonl`, `embeddings.safetensors`), so that a service can start
from it alone. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.policy.adaptive import Mixture, ServingConfig, ServingPolicy, Variant
from service.policy.learner import prefixed, under
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.text import Embeddings, TextProjection

FORMAT = 2  # 1: networks with a recurrent encoder
_TENSORS, _ITEM_IDS, _MANIFEST = "policy.safetensors", "item_ids.json", "manifest.json"
_ITEMS, _EMBEDDINGS = "items.jsonl", "embeddings.safetensors"


class SnapshotError(Exception):
    """A snapshot is missing, unfinished, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is and where it came from."""

    version: int
    parent: int | None
    created_at: float  # unix seconds
    text_encoder: str
    network: NetworkConfig
    serving: ServingConfig
    n_items: int
    catalogue_hash: str  # SHA-256 of the item ids in order
    learner: dict[str, Any] = field(default_factory=dict)  # name and configuration
    lineage: dict[str, Any] = field(default_factory=dict)  # what it learned from: run, log position, counters
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by file name
    format: int = FORMAT


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
            metrics=metrics,
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

    def serving_policy(self, text: Tensor) -> ServingPolicy:
        """The policy for a catalogue whose first rows are `item_ids`; `text` [A, text_dim] may hold new items after."""
        known = text[: len(self.item_ids)]
        pretrained, learned = (self.network(name, known).with_text(text) for name in ("pretrained", "learned"))
        critic = self.network("critic", known).with_text(text) if self.has_critic else learned
        return ServingPolicy(pretrained, learned, critic, self.manifest.serving)


def catalogue_hash(item_ids: tuple[str, ...]) -> str:
    """Hex SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(item_ids).encode()).hexdigest()


class CatalogueItem(NamedTuple):
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
        rows = (json.dumps(item._asdict(), ensure_ascii=False) for item in catalogue.items)
        blobs[_ITEMS] = "".join(f"{row}\n" for row in rows).encode()
        embeddings = torch.from_numpy(catalogue.embeddings.astype(np.float16))
        blobs[_EMBEDDINGS] = save_tensors({"embeddings": embeddings})
    hashes = {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}
    manifest = replace(snapshot.manifest, files=hashes)
    blobs[_MANIFEST] = (json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        unfinished.chmod(0o755)
        for name, blob in blobs.items():
            with (unfinished / name).open("wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
        unfinished.rename(folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        SnapshotError: it is missing, damaged or of another format.
    """
    path = folder / _MANIFEST
    try:
        raw = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            raise SnapshotError(f"{path}: format {raw['format']!r}, this version reads {FORMAT}")
        serving, files = raw.pop("serving"), dict(raw.pop("files"))
        return Manifest(
            network=NetworkConfig(**raw.pop("network")),
            serving=ServingConfig(
                Variant(serving["variant"]),
                Mixture(serving["mixture"]),
                serving["fixed_weight"],
                serving["temperature"],
            ),
            files=files,
            **raw,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotError(f"{path}: not found") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot and check it against its manifest's hashes.

    Raises:
        SnapshotError: a file is missing or is not what the manifest says.
    """
    manifest = read_manifest(folder)
    blobs = {name: _read_checked(folder, name, manifest) for name in (_TENSORS, _ITEM_IDS)}
    item_ids = tuple(json.loads(blobs[_ITEM_IDS]))
    if len(item_ids) != manifest.n_items or catalogue_hash(item_ids) != manifest.catalogue_hash:
        raise SnapshotError(f"{folder / _ITEM_IDS}: is not the catalogue that the manifest names")
    return Snapshot(manifest, item_ids, load_tensors(blobs[_TENSORS]))


def load_catalogue(folder: Path) -> SnapshotCatalogue:
    """Read the catalogue that a pre-trained snapshot carries.

    Raises:
        SnapshotError: it carries none, or a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    # As bytes: text would also be split at U+2028 and its kind, which JSON leaves as they are inside an item's text.
    rows = _read_checked(folder, _ITEMS, manifest).splitlines()
    items = (json.loads(row) for row in rows)
    return SnapshotCatalogue(
        items=tuple(CatalogueItem(i["item_id"], i["text"], tuple(i["categories"])) for i in items),
        embeddings=load_tensors(_read_checked(folder, _EMBEDDINGS, manifest))["embeddings"].float().numpy(),
    )


def _read_checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise SnapshotError(f"{folder / name}: not found") from None
    if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
        raise SnapshotError(f"{folder / name}: SHA-256 differs from the manifest's")
    return data
