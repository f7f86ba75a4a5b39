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
            text_changed = await self.store.sync(self.catalogue)
            await self._load(live, text_changed)

    async def sync_catalogue(self) -> None:
        """Bring the catalogue, and the policy's item rows, up to date."""
        async with self._lock:
            if await self.store.sync(self.catalogue) and self.current is not None:
                self.current = self._build(self.current.snapshot, self.current.live)

    async def _load(self, live: Live | None, text_changed: bool) -> None:
        if live is None:
            self.current = None
            return
        current = self.current
        if current is not None and current.version == live.version:
            if text_changed or current.policy.n_items != len(self.catalogue):
                self.current = self._build(current.snapshot, live)
            elif current.live != live:
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
            await asyncio.sleep(max(0.0, self._settings.refresh_interval_s - (time.monotonic() - started)))
