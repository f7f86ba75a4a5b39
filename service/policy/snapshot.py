"""The immutable artefact that serves: a folder with `policy.safetensors`, `item_ids.json` and `manifest.json`.

The manifest holds the SHA-256 of the other two and is written last, so a folder without one was never finished, and one
whose hashes do not fit is refused. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from service.policy.adaptive import Mixture, ServingConfig, ServingPolicy, Variant
from service.policy.learner import prefixed, under
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.text import TextProjection

FORMAT = 1
_TENSORS, _ITEM_IDS, _MANIFEST = "policy.safetensors", "item_ids.json", "manifest.json"


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
        """Take copies of the weights as they are now; the nets' rows are `item_ids` in order."""
        tensors = {"text.mean": projection.mean, "text.components": projection.components}
        for name, net in (("pretrained", pretrained), ("learned", learned), ("critic", critic)):
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

    def network(self, name: str, text: Tensor) -> ItemScorer:
        """The network "pretrained", "learned" or "critic" for projected `text` [n_items, text_dim] in row order."""
        network = ItemScorer(self.manifest.network, text)
        network.load_state_dict(under(name, self.tensors))
        return network.requires_grad_(False)

    def serving_policy(self, text: Tensor) -> ServingPolicy:
        """The policy for a catalogue whose first rows are `item_ids`; `text` [A, text_dim] may hold new items after."""
        known = text[: len(self.item_ids)]
        nets = [self.network(name, known).with_text(text) for name in ("pretrained", "learned", "critic")]
        return ServingPolicy(nets[0], nets[1], nets[2], self.manifest.serving)


def catalogue_hash(item_ids: tuple[str, ...]) -> str:
    """Hex SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(item_ids).encode()).hexdigest()


def save_snapshot(snapshot: Snapshot, folder: Path) -> Manifest:
    """Write the snapshot to `folder`, which must not exist, and return its manifest with the files' hashes.

    The folder appears whole: it is written beside its place, flushed to disk and renamed.
    """
    blobs = {
        _TENSORS: save_tensors(snapshot.tensors),
        _ITEM_IDS: json.dumps(snapshot.item_ids).encode(),
    }
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
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


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
        serving = raw.pop("serving")
        return Manifest(
            network=NetworkConfig(**raw.pop("network")),
            serving=ServingConfig(
                Variant(serving["variant"]),
                Mixture(serving["mixture"]),
                serving["fixed_weight"],
                serving["temperature"],
            ),
            **raw,
        )
    except FileNotFoundError:
        raise SnapshotError(f"{path}: not found") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{path}: damaged ({error})") from None


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot and check it against its manifest's hashes.

    Raises:
        SnapshotError: a file is missing or is not what the manifest says.
    """
    manifest = read_manifest(folder)
    blobs = {}
    for name in (_TENSORS, _ITEM_IDS):
        try:
            blobs[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise SnapshotError(f"{folder / name}: not found") from None
        if hashlib.sha256(blobs[name]).hexdigest() != manifest.files.get(name):
            raise SnapshotError(f"{folder / name}: SHA-256 differs from the manifest's")
    item_ids = tuple(json.loads(blobs[_ITEM_IDS]))
    if len(item_ids) != manifest.n_items or catalogue_hash(item_ids) != manifest.catalogue_hash:
        raise SnapshotError(f"{folder / _ITEM_IDS}: is not the catalogue that the manifest names")
    return Snapshot(manifest, item_ids, load_tensors(blobs[_TENSORS]))


def project(snapshot: Snapshot, embeddings: Tensor) -> Tensor:
    """Text embeddings [n, TEXT_DIM] as this snapshot's networks take them, [n, text_dim]."""
    with torch.inference_mode():
        return snapshot.projection(embeddings)
