"""Versions on disk as policies that can serve: read and made in the background, brought up to the catalogue."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from service.policy import item_index
from service.policy.adaptive import Query, ServingPolicy
from service.policy.fast_scorer import FastScorer
from service.policy.snapshot import Snapshot, SnapshotError
from service.policy.snapshot_files import load_snapshot
from service.policy.text import TextProjection
from service.policy.variants import Arm
from service.settings import Settings
from service.store.catalogue import Catalogue
from service.store.registry import Live, folder_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A version and its policy for the items of a catalogue."""

    snapshot: Snapshot  # without what it says of its items
    policy: ServingPolicy
    catalogue: Catalogue  # whose texts the policy has read; it may have later items, too

    @property
    def version(self) -> int:
        """The version."""
        return self.snapshot.manifest.version


@dataclass(frozen=True)
class LivePolicy(Loaded):
    """State that a request needs: the policy, its version and whether the kill switch is on."""

    _: KW_ONLY
    live: Live
    shadow: Loaded | None = None  # a version that shows nothing, and what it would show
    only_pretrained: bool = False  # by the settings, whatever the version was made for

    @property
    def is_frozen(self) -> bool:
        """Everybody gets the pre-trained policy."""
        return self.only_pretrained or self.live.mode == "frozen"


AnyLoaded = TypeVar("AnyLoaded", bound=Loaded)
Grown = dict[FastScorer, FastScorer]  # networks with new items, by what they were before


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained network for the items of a catalogue, of which there may be one for many versions."""

    digest: str
    catalogue: Catalogue
    network: FastScorer

    def is_of(self, digest: str, catalogue: Catalogue) -> bool:
        """Check that it is the network that a snapshot would give for a catalogue, or for its first items."""
        same = self.catalogue.index is catalogue.index and self.catalogue.texts == catalogue.texts
        return same and self.digest == digest


class VersionLoader:
    """Make versions' policies in a thread of its own, which takes what the event loop leaves of the core."""

    def __init__(self, settings: Settings) -> None:
        self._thread = ThreadPoolExecutor(1, "prepare", initializer=_step_back)
        self._settings = settings
        self._growing = threading.Lock()
        self._pretrained: Pretrained | None = None  # the last one

    async def load(self, version: int, catalogue: Catalogue, urgent: bool = False) -> Loaded:
        """A version for a catalogue's items; raises SnapshotError."""
        snapshot = await self._read(folder_of(self._settings.data_dir, version), urgent)
        if snapshot.item_ids != tuple(catalogue.ids[: min(len(catalogue), len(snapshot.item_ids))]):
            raise SnapshotError(f"version {version}: its items are not the first of this catalogue")
        policy = await self._build(snapshot, catalogue, urgent)
        return Loaded(snapshot.without_items(), policy, catalogue)

    async def bring_up(self, loaded: AnyLoaded, catalogue: Catalogue, grown: Grown) -> AnyLoaded:
        """Return the version for the items as they are now, while nothing else changes them.

        New items join in at once, and so do new texts; but those wait for a new index where there is one.

        Raises:
            SnapshotError: it is of other items.
        """
        if loaded.catalogue.index is not catalogue.index:
            raise SnapshotError(f"version {loaded.version}: the items it was loaded for are gone")
        if loaded.catalogue.texts != catalogue.texts and not loaded.policy.is_indexed:
            try:
                again = await self.load(loaded.version, catalogue, urgent=True)
                return replace(loaded, policy=again.policy, catalogue=catalogue)
            except SnapshotError as error:  # it is tried again
                log.error("version %d goes on with items' old texts: %s", loaded.version, error)
        if len(catalogue) == loaded.policy.n_items:
            return loaded
        policy = await self._with_new(loaded.policy, loaded.snapshot.projection, catalogue, grown)
        return replace(loaded, policy=policy)

    async def _read(self, folder: Path, urgent: bool = False) -> Snapshot:
        """Read a snapshot, at once if it is `urgent` since a request waits; raises SnapshotError."""
        thread = None if urgent else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, load_snapshot, folder)

    async def _build(self, snapshot: Snapshot, catalogue: Catalogue, urgent: bool = False) -> ServingPolicy:
        """The snapshot's policy for a catalogue, or for what came to it meanwhile."""
        thread = None if urgent else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, self._policy, snapshot, catalogue)

    async def _with_new(
        self, policy: ServingPolicy, projection: TextProjection, catalogue: Catalogue, grown: Grown
    ) -> ServingPolicy:
        """The policy with the catalogue's new items; `grown` has the networks that have got them already."""
        return await asyncio.to_thread(self._grown, policy, projection, catalogue, grown)

    def _policy(self, snapshot: Snapshot, catalogue: Catalogue) -> ServingPolicy:
        digest, n_items = snapshot.digest("pretrained"), len(catalogue)
        previous = self._pretrained
        pretrained = previous.network if previous is not None and previous.is_of(digest, catalogue) else None
        if pretrained is not None:  # versions of one pre-training share it
            n_items = max(n_items, len(pretrained))
            if len(pretrained) < n_items:
                grown: Grown = {}
                self._grow([pretrained], snapshot.projection, catalogue, grown)
                pretrained = grown[pretrained]
        policy = snapshot.serving_policy(catalogue.embeddings.array[:n_items], pretrained)
        self._pretrained = Pretrained(digest, catalogue, policy.pretrained)
        catalogue.embeddings.forget()
        if policy.is_narrowed and n_items >= self._settings.index_from:
            if item_index.is_installed():
                policy = policy.indexed(self._settings.seed or 0)
            else:
                log.warning("every request looks at all %d items: an index needs pip install 'ialp[index]'", n_items)
        return _warm(policy)

    def _grown(
        self, policy: ServingPolicy, projection: TextProjection, catalogue: Catalogue, grown: Grown
    ) -> ServingPolicy:
        self._grow(policy.networks, projection, catalogue, grown)
        return _warm(policy.replaced(grown))

    def _grow(
        self, networks: Sequence[FastScorer], projection: TextProjection, catalogue: Catalogue, grown: Grown
    ) -> None:
        with self._growing:
            for network in networks:
                if network not in grown:
                    new = catalogue.embeddings.array[len(network) : len(catalogue)].astype(np.float32)
                    grown[network] = network.with_items(projection(torch.from_numpy(new)))
                    if self._pretrained is not None and self._pretrained.network is network:
                        self._pretrained = replace(self._pretrained, network=grown[network])


def _warm(policy: ServingPolicy) -> ServingPolicy:
    """Serve a query of each arm, so that the first request finds all that is computed once; returns the policy."""
    policy.serve([Query((), np.ones(policy.n_items, np.bool_), arm) for arm in Arm])
    return policy


def _step_back() -> None:
    if sys.platform == "linux":  # where priorities are of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
