"""The policy in service in this process: loaded in the background, swapped in one assignment, read once per request."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import redis.asyncio as aioredis
import torch
from redis.exceptions import RedisError

from service.catalogue import Catalogue, CatalogueStore
from service.keys import Keys
from service.policy.adaptive import ServingPolicy
from service.policy.snapshot import Snapshot, SnapshotError, load_snapshot
from service.registry import Live, Registry, folder_of
from service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LivePolicy:
    """What a request needs: the policy, its version and whether the kill switch is on."""

    snapshot: Snapshot
    policy: ServingPolicy
    live: Live

    @property
    def version(self) -> int:
        """Version in service."""
        return self.snapshot.manifest.version


class PolicyWatch:
    """Keeps `current` and `catalogue` equal to what Redis says."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        self.registry = Registry(redis, keys)
        self.store = CatalogueStore(redis, keys)
        self.catalogue = Catalogue()
        self.current: LivePolicy | None = None
        self.redis_ok = False
        self._settings = settings
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Look once; raises RedisError if Redis does not answer, and keeps what it has if a snapshot is damaged."""
        live = await self.registry.live()
        async with self._lock:
            await self._sync()
            await self._load(live)

    async def sync_catalogue(self) -> None:
        """Bring the catalogue, and the policy's item rows, up to date."""
        async with self._lock:
            await self._sync()

    async def _sync(self) -> None:
        # No await between the catalogue's change and the policy's: a request sees both or neither.
        if not await self.store.sync(self.catalogue) or self.current is None:
            return
        emptied = len(self.catalogue) < len(self.current.snapshot.item_ids)
        self.current = None if emptied else self._build(self.current.snapshot, self.current.live)

    async def _load(self, live: Live | None) -> None:
        if live is None:
            self.current = None
            return
        current = self.current
        if current is not None and current.version == live.version:
            if current.live != live:
                self.current = LivePolicy(current.snapshot, current.policy, live)
            return
        try:
            snapshot = await asyncio.to_thread(load_snapshot, folder_of(self._settings.data_dir, live.version))
            if snapshot.item_ids != tuple(self.catalogue.ids[: len(snapshot.item_ids)]):
                raise SnapshotError(f"version {live.version}: its items are not the first of this catalogue")
            self.current = self._build(snapshot, live)
            log.info("serving version %d (%s)", live.version, live.mode)
        except SnapshotError as error:
            log.error("version %d cannot be served, keeping the one in service: %s", live.version, error)

    def _build(self, snapshot: Snapshot, live: Live) -> LivePolicy:
        text = snapshot.projection(torch.from_numpy(self.catalogue.embeddings))
        return LivePolicy(snapshot, snapshot.serving_policy(text), live)

    async def watch(self) -> None:
        """Refresh for ever; outlasts outages of Redis."""
        while True:
            started = time.monotonic()
            try:
                await self.refresh()
                self.redis_ok = True
            except (RedisError, OSError) as error:
                if self.redis_ok:
                    log.warning("Redis does not answer (%s); serving from memory", type(error).__name__)
                self.redis_ok = False
            except Exception:  # an unforeseen version must not end the watch: later ones would never be seen
                log.exception("looking for changes failed; serving what is in memory")
            await asyncio.sleep(max(0.0, self._settings.refresh_interval_s - (time.monotonic() - started)))
