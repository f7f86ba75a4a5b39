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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import redis.asyncio as aioredis
import torch
from redis.exceptions import RedisError
from torch import Tensor

from service.catalogue import Catalogue, CatalogueStore
from service.circuit import AWAY, Circuit
from service.keys import Keys
from service.policy.adaptive import Arm, Query, ServingPolicy
from service.policy.snapshot import Snapshot, SnapshotError, load_snapshot
from service.policy.text import Embeddings, TextProjection
from service.registry import Live, Registry, folder_of
from service.settings import Settings

log = logging.getLogger(__name__)

_DAMAGED_S = 5.0  # after which a version that could not be loaded is tried again


@dataclass(frozen=True)
class Apprentice:
    """A version that shows nothing, and what it would show."""

    snapshot: Snapshot
    policy: ServingPolicy

    @property
    def version(self) -> int:
        """The version."""
        return self.snapshot.manifest.version


@dataclass(frozen=True)
class LivePolicy:
    """What a request needs: the policy, its version and whether the kill switch is on."""

    snapshot: Snapshot
    policy: ServingPolicy
    live: Live
    apprentice: Apprentice | None = None

    @property
    def version(self) -> int:
        """Version in service."""
        return self.snapshot.manifest.version


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
        self.catalogue = Catalogue()
        self.current: LivePolicy | None = None
        self._pointer = Registry(probe, keys)
        self._circuit = circuit
        self._settings = settings
        self._live: Live | None = None  # the pointer, as last read
        self._damaged: dict[int, float] = {}  # version -> when it could not be loaded
        self._n_frozen = 0
        self._preparer = _Preparer()
        self._looking = asyncio.Lock()  # an older look must not undo a newer one
        self._loading = asyncio.Lock()
        self._changing = asyncio.Lock()  # the catalogue, or the policy that has a row for each of its items

    @property
    def _served(self) -> ServingPolicy | None:
        return self.current.policy if self.current is not None else None

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
        # While frozen, no version is better than the one that is here.
        return current is None or (live.mode != "frozen" and live.version != current.version)

    async def _load(self, version: int) -> None:
        """Serve a version; if it is damaged and nothing serves yet, the newest that served before it."""
        for candidate in [version, *(await self._pointer.served() if self.current is None else [])]:
            if await self._try_to_load(candidate, instead=candidate != version):
                return

    async def _try_to_load(self, version: int, instead: bool) -> bool:
        try:
            snapshot = await self._preparer.load(folder_of(self._settings.data_dir, version))
            async with self._changing:
                if snapshot.item_ids != tuple(self.catalogue.ids[: len(snapshot.item_ids)]):
                    raise SnapshotError(f"version {version}: its items are not the first of this catalogue")
                policy = await self._preparer.policy(snapshot, self.catalogue, self._served)
                if self._live is not None and (instead or _may_serve(version, self._live)):
                    apprentice = self.current.apprentice if self.current else None
                    self.current = LivePolicy(snapshot, policy, self._live, apprentice)
                    log.info("serving version %d (%s)", version, self._live.mode)
                else:
                    log.info("version %d was loaded, but is wanted no more", version)
                return True
        except SnapshotError as error:
            self._damaged[version] = time.monotonic()
            log.error("version %d cannot be served, keeping the one in service: %s", version, error)
            return False

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
                snapshot = await self._preparer.load(folder_of(self._settings.data_dir, live.shadow))
            except SnapshotError as error:
                log.error("version %d cannot be the apprentice: %s", live.shadow, error)
                return
        async with self._changing:
            if live.shadow is not None:
                if snapshot.item_ids != tuple(self.catalogue.ids[: len(snapshot.item_ids)]):
                    return  # of items that are not known here yet
                policy = await self._preparer.policy(snapshot, self.catalogue, self._served)
                apprentice = Apprentice(snapshot, policy)
            if self.current is not None:
                self.current = replace(self.current, apprentice=apprentice)

    async def sync_catalogue(self, seq: int | None = None) -> None:
        """Bring the catalogue, and the policy's item rows, up to date, unless `seq` is the last known change."""
        async with self._changing:
            if seq is not None and seq == self.catalogue.seq:
                return
            catalogue = await self.store.sync(self.catalogue)
            if catalogue is self.catalogue:
                return
            served, policy, apprentice = self.current, None, None
            if served is not None and len(catalogue) >= len(served.snapshot.item_ids):
                policy, apprentice = served.policy, served.apprentice
                if catalogue.embeddings is not self.catalogue.embeddings:
                    policy = await self._preparer.policy(served.snapshot, catalogue, None, urgent=True)
                    if apprentice is not None:
                        same = await self._preparer.policy(apprentice.snapshot, catalogue, policy, urgent=True)
                        apprentice = replace(apprentice, policy=same)
            if len(catalogue) > 2 * self._n_frozen:  # seldom: what is garbage by now, in cycles, stays for ever
                gc.freeze()  # all these objects live long, so no collection need walk through them
                self._n_frozen = len(catalogue)
            # No await between the catalogue's change and the policy's: a request sees both or neither.
            self.catalogue = catalogue
            if self.current is not None:  # its mode may have changed meanwhile
                changed = replace(self.current, policy=policy, apprentice=apprentice) if policy is not None else None
                self.current = changed

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


class _Preparer:
    """Makes policies in a thread of its own, which takes what the event loop leaves of the core."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "prepare", initializer=_step_back)
        self._texts: list[tuple[Embeddings, TextProjection, Tensor]] = []  # of the last catalogue

    async def load(self, folder: Path) -> Snapshot:
        """Read a snapshot; raises SnapshotError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, load_snapshot, folder)

    async def policy(
        self, snapshot: Snapshot, catalogue: Catalogue, like: ServingPolicy | None, urgent: bool = False
    ) -> ServingPolicy:
        """The snapshot's policy for a catalogue; `urgent` if a request waits for it."""
        thread = None if urgent else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, self._policy, snapshot, catalogue, like)

    def _policy(self, snapshot: Snapshot, catalogue: Catalogue, like: ServingPolicy | None) -> ServingPolicy:
        policy = snapshot.serving_policy(self._text(snapshot.projection, catalogue.embeddings), like)
        # So that the first request finds all tables made, of the control arm and for the kill switch as well.
        policy.serve([Query((), catalogue.available, arm) for arm in Arm])
        return policy

    def _text(self, projection: TextProjection, embeddings: Embeddings) -> Tensor:
        """The texts as the projection sees them; versions of one pre-training have the same one."""
        self._texts = [kept for kept in self._texts if kept[0] is embeddings]
        for _, known, text in self._texts:
            if torch.equal(known.mean, projection.mean) and torch.equal(known.components, projection.components):
                return text
        text = projection(torch.from_numpy(embeddings))
        self._texts = [*self._texts[-1:], (embeddings, projection, text)]
        return text


def _step_back() -> None:
    if sys.platform == "linux":  # where priorities are of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _may_serve(version: int, live: Live) -> bool:
    """Whether a version may still serve when its load ends: not if an operator turned to another one meanwhile."""
    overtaken = live.mode == "auto" and version < live.version  # by the worker, which may do so again and again
    return live.mode == "frozen" or version == live.version or overtaken
