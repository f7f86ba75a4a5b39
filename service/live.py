"""The policy in service in this process: loaded in the background, swapped in one assignment, read once per request."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import redis.asyncio as aioredis
import torch
from redis.exceptions import RedisError

from service.catalogue import Catalogue, CatalogueStore
from service.circuit import AWAY, Circuit
from service.keys import Keys
from service.policy import item_index
from service.policy.adaptive import Arm, Query, ServingPolicy, Variant
from service.policy.fast_scorer import FastScorer
from service.policy.snapshot import Snapshot, SnapshotError, load_snapshot
from service.policy.text import TextProjection
from service.registry import Live, Registry, folder_of
from service.settings import Settings

log = logging.getLogger(__name__)

_DAMAGED_S = 5.0  # after which a version that could not be loaded is tried again


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
    """What a request needs: the policy, its version and whether the kill switch is on."""

    _: KW_ONLY
    live: Live
    apprentice: Loaded | None = None  # a version that shows nothing, and what it would show
    only_pretrained: bool = False  # by the settings, whatever the version was made for

    @property
    def is_frozen(self) -> bool:
        """Everybody gets the pre-trained policy."""
        return self.only_pretrained or self.live.mode == "frozen"


AnyLoaded = TypeVar("AnyLoaded", bound=Loaded)
Grown = dict[FastScorer, FastScorer]  # networks with new items, by what they were before


class PolicyWatch:
    """Keeps `current` and `catalogue` equal to what Redis says.

    The pointer is looked at on its own, so that no load or rebuild delays the kill switch, and by a client of its own,
    which also finds out when Redis is back.
    """

    def __init__(
        self, redis: aioredis.Redis, probe: aioredis.Redis, circuit: Circuit, keys: Keys, settings: Settings
    ) -> None:
        """`probe` asks even while `circuit` is open."""
        self.registry = Registry(redis, keys)
        self.store = CatalogueStore(redis, keys)
        self.catalogue = Catalogue.kept_in(settings.data_dir)
        self.current: LivePolicy | None = None
        self._pointer = Registry(probe, keys)
        self._circuit = circuit
        self._settings = settings
        self._live: Live | None = None  # the pointer, as last read
        self._complaints: set[str] = set()  # what was said already
        self._damaged: dict[int, float] = {}  # version -> when it could not be loaded
        self.problem: str | None = None  # what kept the last version from being served
        self._n_frozen = 0
        self._preparer = _Preparer(settings)
        self._looking = asyncio.Lock()  # an older look must not undo a newer one
        self._loading = asyncio.Lock()
        self._changing = asyncio.Lock()  # the catalogue, or the policy that has a row for each of its items

    async def refresh(self) -> None:
        """Look once and catch up; raises RedisError if Redis does not answer."""
        await self.look()
        await self.catch_up()

    async def look(self) -> None:
        """Read the live pointer. The kill switch takes effect here: every version has the pre-trained policy."""
        async with self._looking:
            self._live = live = await self._pointer.live()
            current = self.current
            if live is None:
                self.current = None
            elif current is not None and (live.mode == "frozen" or live.version == current.version):
                self.current = replace(current, live=live)
                self.problem = None

    async def catch_up(self) -> None:
        """Bring in the catalogue's changes and the version that should serve; a damaged one leaves what serves."""
        await self.sync_catalogue()
        if self._is_behind():
            async with self._loading:
                if self._live is not None and self._is_behind():
                    await self._load(self._live.version)
        if self._apprentice_changed():
            async with self._loading:
                await self._follow_apprentice()

    def _is_behind(self) -> bool:
        live, current = self._live, self.current
        if live is None or time.monotonic() - self._damaged.get(live.version, -math.inf) < _DAMAGED_S:
            return False
        if current is None or current.catalogue.texts != self.catalogue.texts:
            return True
        # While frozen, no version is better than the one that is here.
        return live.mode != "frozen" and live.version != current.version

    async def _load(self, version: int) -> None:
        """Serve a version; if it is damaged and nothing serves yet, the newest that served before it."""
        for candidate in [version, *(await self._pointer.served() if self.current is None else [])]:
            if await self._try_to_load(candidate, instead=candidate != version):
                return

    async def _try_to_load(self, version: int, instead: bool) -> bool:
        try:
            loaded = await self._prepared(version, self.catalogue)
            async with self._changing:
                loaded = await self._brought_up(loaded, self.catalogue, {})
                if self._live is not None and (instead or _may_serve(version, self._live)):
                    apprentice = self.current.apprentice if self.current else None
                    self.current = LivePolicy(
                        loaded.snapshot,
                        loaded.policy,
                        loaded.catalogue,
                        live=self._live,
                        apprentice=apprentice,
                        only_pretrained=self._settings.variant == Variant.FROZEN,
                    )
                    if not instead:
                        self._complaints.clear()
                        self.problem = None
                    log.info("serving version %d (%s)", version, self._live.mode)
                else:
                    log.info("version %d was loaded, but is wanted no more", version)
                return True
        except SnapshotError as error:
            self._damaged[version] = time.monotonic()
            problem = f"version {version} cannot be served: {error}"
            if problem not in self._complaints:
                log.error("%s; what is in service stays", problem)
            self._complaints.add(problem)
            if self.current is not None or self.problem is None:  # of what came first the rest may follow
                self.problem = problem
            return False

    async def _prepared(self, version: int, catalogue: Catalogue, urgent: bool = False) -> Loaded:
        """A version for a catalogue's items; raises SnapshotError."""
        snapshot = await self._preparer.load(folder_of(self._settings.data_dir, version), urgent)
        if snapshot.item_ids != tuple(catalogue.ids[: min(len(catalogue), len(snapshot.item_ids))]):
            raise SnapshotError(f"version {version}: its items are not the first of this catalogue")
        policy = await self._preparer.policy(snapshot, catalogue, urgent)
        return Loaded(snapshot.without_items(), policy, catalogue)

    async def _brought_up(self, loaded: AnyLoaded, catalogue: Catalogue, made: Grown) -> AnyLoaded:
        """The same version for the items as they are now, while nothing else changes them.

        New items join in at once, and so do new texts; but those wait for a new index where there is one.

        Raises:
            SnapshotError: it is of other items.
        """
        if loaded.catalogue.index is not catalogue.index:
            raise SnapshotError(f"version {loaded.version}: the items it was loaded for are gone")
        if loaded.catalogue.texts != catalogue.texts and not loaded.policy.is_indexed:
            try:
                again = await self._prepared(loaded.version, catalogue, urgent=True)
                return replace(loaded, policy=again.policy, catalogue=catalogue)
            except SnapshotError as error:  # it is tried again
                log.error("version %d goes on with items' old texts: %s", loaded.version, error)
        if len(catalogue) == loaded.policy.n_items:
            return loaded
        policy = await self._preparer.grown(loaded.policy, loaded.snapshot.projection, catalogue, made)
        return replace(loaded, policy=policy)

    def _apprentice_changed(self) -> bool:
        current, live = self.current, self._live
        here = current.apprentice.version if current is not None and current.apprentice else None
        return current is not None and live is not None and here != live.shadow

    async def _follow_apprentice(self) -> None:
        """Load the apprentice that the pointer names, or let go of one that it names no more."""
        live, apprentice = self._live, None
        if live is None or not self._apprentice_changed():
            return
        if live.shadow is not None:
            try:
                apprentice = await self._prepared(live.shadow, self.catalogue)
            except SnapshotError as error:
                log.error("version %d cannot be the apprentice: %s", live.shadow, error)
                return
        async with self._changing:
            if apprentice is not None:
                apprentice = await self._brought_up(apprentice, self.catalogue, {})
            if self.current is not None:
                self.current = replace(self.current, apprentice=apprentice)

    async def sync_catalogue(self, seq: int | None = None) -> None:
        """Bring the catalogue, and the policy's item rows, up to date, unless `seq` is the last known change."""
        async with self._changing:
            if seq is not None and seq == self.catalogue.seq:
                return
            before, catalogue = self.catalogue, await self.store.sync(self.catalogue)
            if catalogue is before:
                return
            served: LivePolicy | None = self.current
            made: Grown = {}
            policy, apprentice = served, served.apprentice if served is not None else None
            if served is not None and catalogue.index is not before.index:  # the items that it ranks are gone
                policy = apprentice = None
            if policy is not None:
                policy = await self._brought_up(policy, catalogue, made)
            if apprentice is not None:
                apprentice = await self._brought_up(apprentice, catalogue, made)
            if len(catalogue) > 2 * self._n_frozen:  # seldom: what is garbage by now, in cycles, stays for ever
                gc.freeze()  # all these objects live long, so no collection need walk through them
                self._n_frozen = len(catalogue)
            # No await between the catalogue's change and the policy's: a request sees both or neither.
            self.catalogue = catalogue
            catalogue.adopt()
            if self.current is not None:  # its mode may have changed meanwhile
                live = self.current.live
                self.current = replace(policy, live=live, apprentice=apprentice) if policy is not None else None

    async def watch(self) -> None:
        """Look for ever; outlasts outages of Redis, and says when one begins and ends."""
        while True:
            started = time.monotonic()
            try:
                await self.look()
                self._circuit.close()
            except AWAY as error:
                self._circuit.open(type(error).__name__)
            except Exception:  # an unforeseen pointer must not end the watch: later ones would never be seen
                log.exception("looking at the live pointer failed; serving what is in memory")
            await asyncio.sleep(max(0.0, self._settings.refresh_interval_s - (time.monotonic() - started)))

    async def follow(self) -> None:
        """Catch up for ever."""
        while True:
            try:
                await self.catch_up()
            except (RedisError, OSError) as error:
                log.debug("catching up failed (%s)", type(error).__name__)  # the circuit says it aloud
            except Exception:  # nor must an unforeseen version
                log.exception("looking for changes failed; serving what is in memory")
            await asyncio.sleep(self._settings.refresh_interval_s)


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained network for the items of a catalogue, of which there may be one for many versions."""

    digest: str
    catalogue: Catalogue
    network: FastScorer

    def is_of(self, digest: str, catalogue: Catalogue) -> bool:
        """Whether it is what a snapshot would make for a catalogue, or for its first items."""
        same = self.catalogue.index is catalogue.index and self.catalogue.texts == catalogue.texts
        return same and self.digest == digest


class _Preparer:
    """Makes policies in a thread of its own, which takes what the event loop leaves of the core."""

    def __init__(self, settings: Settings) -> None:
        self._thread = ThreadPoolExecutor(1, "prepare", initializer=_step_back)
        self._settings = settings
        self._growing = threading.Lock()
        self._pretrained: Pretrained | None = None  # the last one

    async def load(self, folder: Path, urgent: bool = False) -> Snapshot:
        """Read a snapshot, at once if it is `urgent` since a request waits; raises SnapshotError."""
        thread = None if urgent else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, load_snapshot, folder)

    async def policy(self, snapshot: Snapshot, catalogue: Catalogue, urgent: bool = False) -> ServingPolicy:
        """The snapshot's policy for a catalogue, or for what came to it meanwhile."""
        thread = None if urgent else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, self._policy, snapshot, catalogue)

    async def grown(
        self, policy: ServingPolicy, projection: TextProjection, catalogue: Catalogue, made: Grown
    ) -> ServingPolicy:
        """The policy with the catalogue's new items; `made` has the networks that have got them already."""
        return await asyncio.to_thread(self._grown, policy, projection, catalogue, made)

    def _policy(self, snapshot: Snapshot, catalogue: Catalogue) -> ServingPolicy:
        digest, n_items = snapshot.digest("pretrained"), len(catalogue)
        known = self._pretrained
        pretrained = known.network if known is not None and known.is_of(digest, catalogue) else None
        if pretrained is not None:  # versions of one pre-training share it
            n_items = max(n_items, len(pretrained))
            if len(pretrained) < n_items:
                made: Grown = {}
                self._grow([pretrained], snapshot.projection, catalogue, made)
                pretrained = made[pretrained]
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
        self, policy: ServingPolicy, projection: TextProjection, catalogue: Catalogue, made: Grown
    ) -> ServingPolicy:
        self._grow(policy.networks, projection, catalogue, made)
        return _warm(policy.replaced(made))

    def _grow(
        self, networks: Sequence[FastScorer], projection: TextProjection, catalogue: Catalogue, made: Grown
    ) -> None:
        with self._growing:
            for network in networks:
                if network not in made:
                    new = catalogue.embeddings.array[len(network) : len(catalogue)].astype(np.float32)
                    made[network] = network.with_items(projection(torch.from_numpy(new)))
                    if self._pretrained is not None and self._pretrained.network is network:
                        self._pretrained = replace(self._pretrained, network=made[network])


def _warm(policy: ServingPolicy) -> ServingPolicy:
    """So that the first request finds all that is made once, of the control arm and for the kill switch as well."""
    policy.serve([Query((), np.ones(policy.n_items, np.bool_), arm) for arm in Arm])
    return policy


def _step_back() -> None:
    if sys.platform == "linux":  # where priorities are of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _may_serve(version: int, live: Live) -> bool:
    """Whether a version may still serve when its load ends: not if an operator turned to another one meanwhile."""
    overtaken = live.mode == "auto" and version < live.version  # by the worker, which may do so again and again
    return live.mode == "frozen" or version == live.version or overtaken
