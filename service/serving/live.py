"""The version that this process serves: loaded in the background, swapped in one assignment, read once a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from dataclasses import replace

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from service.policy.snapshot import SnapshotError
from service.policy.variants import Variant
from service.serving.loader import Grown, LivePolicy, VersionLoader
from service.settings import Settings
from service.store.catalogue import Catalogue, CatalogueStore
from service.store.circuit import AWAY, Circuit
from service.store.keys import Keys
from service.store.registry import Live, Registry

log = logging.getLogger(__name__)

_DAMAGED_S = 5.0  # after which a version that could not be loaded is tried again


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
        self._loader = VersionLoader(settings)
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
        if self._shadow_changed():
            async with self._loading:
                await self._follow_shadow()

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
            loaded = await self._loader.load(version, self.catalogue)
            async with self._changing:
                loaded = await self._loader.bring_up(loaded, self.catalogue, {})
                if self._live is not None and (instead or _may_serve(version, self._live)):
                    shadow = self.current.shadow if self.current else None
                    self.current = LivePolicy(
                        loaded.snapshot,
                        loaded.policy,
                        loaded.catalogue,
                        live=self._live,
                        shadow=shadow,
                        only_pretrained=self._settings.variant == Variant.FROZEN,
                    )
                    if not instead:
                        self._complaints.clear()
                        self.problem = None
                    log.info("serving version %d (%s)", version, self._live.mode)
                else:
                    log.info("version %d was loaded, but is not to serve any more", version)
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

    def _shadow_changed(self) -> bool:
        current, live = self.current, self._live
        here = current.shadow.version if current is not None and current.shadow else None
        return current is not None and live is not None and here != live.shadow

    async def _follow_shadow(self) -> None:
        """Load the shadow version that the pointer names, or drop one that it does not name any more."""
        live, shadow = self._live, None
        if live is None or not self._shadow_changed():
            return
        if live.shadow is not None:
            try:
                shadow = await self._loader.load(live.shadow, self.catalogue)
            except SnapshotError as error:
                log.error("version %d cannot be the shadow version: %s", live.shadow, error)
                return
        async with self._changing:
            if shadow is not None:
                shadow = await self._loader.bring_up(shadow, self.catalogue, {})
            if self.current is not None:
                self.current = replace(self.current, shadow=shadow)

    async def sync_catalogue(self, seq: int | None = None) -> None:
        """Bring the catalogue, and the policy's item rows, up to date, unless `seq` is the last known change."""
        if seq is not None and seq == self.catalogue.seq:
            return
        async with self._changing:
            if seq is not None and seq == self.catalogue.seq:
                return
            before, catalogue = self.catalogue, await self.store.sync(self.catalogue)
            if catalogue is before:
                return
            served: LivePolicy | None = self.current
            grown: Grown = {}
            policy, shadow = served, served.shadow if served is not None else None
            if served is not None and catalogue.index is not before.index:  # the items that it ranks are gone
                policy = shadow = None
            if policy is not None:
                policy = await self._loader.bring_up(policy, catalogue, grown)
            if shadow is not None:
                shadow = await self._loader.bring_up(shadow, catalogue, grown)
            if len(catalogue) > 2 * self._n_frozen:  # seldom: what is garbage by now, in cycles, stays for ever
                gc.freeze()  # all these objects live long, so no collection need walk through them
                self._n_frozen = len(catalogue)
            # No await between the catalogue's change and the policy's: a request sees both or neither.
            self.catalogue = catalogue
            catalogue.adopt()
            if self.current is not None:  # its mode may have changed meanwhile
                live = self.current.live
                self.current = replace(policy, live=live, shadow=shadow) if policy is not None else None

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


def _may_serve(version: int, live: Live) -> bool:
    """Check that a version may still serve when its load ends: not if an operator chose another one meanwhile."""
    overtaken = live.mode == "auto" and version < live.version  # by the worker, which may do so again and again
    return live.mode == "frozen" or version == live.version or overtaken
