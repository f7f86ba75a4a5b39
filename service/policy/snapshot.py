"""A policy that serves, as data: its manifest, items and tensors. `snapshot_files` writes and reads it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from service.policy.adaptive import ServingPolicy
from service.policy.exact_policy import ExactPolicy
from service.policy.fast_scorer import FastScorer, is_curious, item_numbers, width_of
from service.policy.learner import prefixed, under
from service.policy.networks import ITEM_STATE, ItemScorer, NetworkConfig
from service.policy.posterior import Evidence
from service.policy.rows import Rows
from service.policy.text import Embeddings, TextProjection
from service.policy.variants import ServingConfig

FORMAT = 3  # 1: networks with a recurrent encoder; 2: without taste, and with one gain of the prior
POLICY_FILE, ITEMS_FILE = "policy.safetensors", "items.jsonl"

_AT_ONCE = 8_192  # items
_ROOM = 1_024  # for items that come later
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class SnapshotError(Exception):
    """A snapshot is missing, unfinished, damaged or of another format; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """Description of a snapshot: what it is and where it came from."""

    version: _Count
    parent: _Count | None
    created_at: float  # unix seconds
    text_encoder: Annotated[str, Meta(pattern="^(minilm|e5|hashing)$")]
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
        """True if texts and embeddings of the items are included, as a deployment needs them to begin."""
        return ITEMS_FILE in self.files

    @property
    def weights(self) -> str:
        """SHA-256 of the weights' file: what the policy is, whatever version it is called."""
        return self.files.get(POLICY_FILE, "")


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
        evidence: Evidence | None = None,
    ) -> Snapshot:
        """Take copies of the weights as they are now; the nets' rows are `item_ids` in order.

        A critic that is the learned network itself is stored once. `evidence` is what logs
        taught, of a first version.
        """
        tensors = {"text.mean": projection.mean, "text.components": projection.components}
        nets = {"pretrained": pretrained, "learned": learned} | ({} if critic is learned else {"critic": critic})
        for name, net in nets.items():
            assert net.n_items == len(item_ids), f"{name} has {net.n_items} rows for {len(item_ids)} items"
            tensors |= prefixed(name, net.state_dict())
        if evidence is not None:
            tensors |= prefixed("evidence", evidence._asdict())
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
        """Projection of text embeddings that this snapshot's networks read."""
        return TextProjection(self.tensors["text.mean"], self.tensors["text.components"])

    @property
    def has_critic(self) -> bool:
        """True if the critic is a network of its own, not the learned one."""
        return bool(under("critic", self.tensors))

    @property
    def evidence(self) -> Evidence | None:
        """Precision that logs gave, if this is a first version that has learned from any."""
        tensors = under("evidence", self.tensors)
        return Evidence(**tensors) if tensors else None

    def network(self, name: str, text: Tensor) -> ItemScorer:
        """The network "pretrained", "learned" or "critic" for projected `text` [n_items, text_dim] in row order."""
        network = ItemScorer(self.manifest.network, text)
        network.load_state_dict(under(name, self.tensors))
        return network.requires_grad_(False)

    def exact_policy(self, text: Tensor) -> ExactPolicy:
        """The policy for a catalogue whose first rows are `item_ids`; `text` [A, text_dim] may hold new items after."""
        own_text = text[: len(self.item_ids)]
        pretrained, learned = (self.network(name, own_text).with_text(text) for name in ("pretrained", "learned"))
        critic = self.network("critic", own_text).with_text(text) if self.has_critic else learned
        return ExactPolicy(pretrained, learned, critic, self.manifest.serving)

    def serving_policy(
        self, embeddings: npt.NDArray[np.floating], pretrained: FastScorer | None = None
    ) -> ServingPolicy:
        """Build the policy for a catalogue with text `embeddings` [A, TEXT_DIM], whose first rows are `item_ids`.

        `pretrained`: the pre-trained network for this catalogue, where it has been made before.
        """
        names = (["learned"] if pretrained else ["pretrained", "learned"]) + ["critic"] * self.has_critic
        scorers = self._fast_scorers(names, embeddings)
        first, learned = pretrained or scorers["pretrained"], scorers["learned"]
        return ServingPolicy(first, learned, scorers.get("critic", learned), self.manifest.serving)

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
        rows = {key: state[key][part] for key in ITEM_STATE}
        network = ItemScorer(self.manifest.network, text[: len(rows["id_bias"])])
        network.load_state_dict(state | rows)
        return network.requires_grad_(False)

    def digest(self, name: str) -> str:
        """Hash of all that a network's scores depend on but the items' texts, in hex."""
        tensors = under(name, self.tensors) | under("text", self.tensors)
        digest = hashlib.blake2b(repr(self.manifest.network).encode())
        for key in sorted(tensors):
            digest.update(tensors[key].numpy().data)
        return digest.hexdigest()

    def without_items(self) -> Snapshot:
        """Return the snapshot without its items' numbers and ids, which may be very many."""
        text = {name: t.clone() for name, t in self.tensors.items() if name.startswith("text.")}
        return Snapshot(self.manifest, (), text)  # copies: a part of a file's memory would keep all of it


def catalogue_hash(item_ids: tuple[str, ...]) -> str:
    """Hex SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(item_ids).encode()).hexdigest()


PropertyValue = bool | int | float | str | list[bool | int | float | str]


@dataclass(frozen=True)
class CatalogueItem:
    """An item of the catalogue that a pre-trained snapshot carries."""

    item_id: str
    text: str
    categories: tuple[str, ...]
    properties: dict[str, PropertyValue] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotCatalogue:
    """The items of a snapshot in row order, with their text embeddings."""

    items: tuple[CatalogueItem, ...]
    embeddings: Embeddings  # [n_items, TEXT_DIM]
