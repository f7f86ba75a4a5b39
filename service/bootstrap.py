"""Fills an empty registry with the snapshot that `offline pretrain` wrote: version 1, the frozen control for ever."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import redis.asyncio as aioredis

from service.catalogue import CatalogueStore, ItemRecord, pack_embedding
from service.keys import Keys
from service.policy.snapshot import (
    Manifest,
    Snapshot,
    SnapshotError,
    load_catalogue,
    load_snapshot,
    read_manifest,
    save_snapshot,
)
from service.registry import PUBLISH, Gate, Registry, folder_of, publish_call
from service.settings import Settings

log = logging.getLogger(__name__)

_LOCK_S = 60
_BATCH = 500


async def bootstrap(redis: aioredis.Redis, keys: Keys, settings: Settings) -> bool:
    """Publish `settings.snapshot` as version 1 if nothing is published yet; says whether it did.

    Safe to call from several processes at once: one does it under a lock, the others wait for it.

    Raises:
        SnapshotError: the snapshot is damaged, or Redis already holds other items.
    """
    registry = Registry(redis, keys)
    if settings.snapshot is None:
        return False
    if await registry.live() is not None:
        await asyncio.to_thread(_warn_of_another, settings.snapshot, folder_of(settings.data_dir, 1))
        return False
    snapshot = await asyncio.to_thread(load_snapshot, settings.snapshot)
    catalogue = await asyncio.to_thread(load_catalogue, settings.snapshot)
    items = [
        (item.item_id, ItemRecord(item.text, pack_embedding(row), item.categories))
        for item, row in zip(catalogue.items, catalogue.embeddings, strict=True)
    ]
    async with redis.lock(keys.bootstrap, timeout=_LOCK_S, blocking_timeout=_LOCK_S):
        if await registry.live() is not None:
            return False
        store = CatalogueStore(redis, keys)
        for start in range(0, len(items), _BATCH):
            await store.put(items[start : start + _BATCH], log=False)
        first = await redis.hmget(keys.item_index, list(snapshot.item_ids))
        if [int(index) for index in first] != list(range(len(items))):
            raise SnapshotError("Redis holds items that this snapshot does not know; use another key prefix")
        manifest = await asyncio.to_thread(_first_version, snapshot, settings)
        names, args = publish_call(keys, manifest, Gate(passed=True))
        await redis.register_script(PUBLISH)(keys=names, args=args)
    log.info("published %s as version 1 with %d items", settings.snapshot, len(items))
    return True


def _warn_of_another(given: Path, first: Path) -> None:
    try:
        same = read_manifest(given).files["policy.safetensors"] == read_manifest(first).files["policy.safetensors"]
    except (SnapshotError, KeyError):
        return
    if not same:
        log.warning(
            "%s is not used: the registry began with another snapshot. A deployment of its own has an IALP_KEY_PREFIX "
            "and an IALP_DATA_DIR of its own (in `service dev` the latter is enough)",
            given,
        )


def _first_version(snapshot: Snapshot, settings: Settings) -> Manifest:
    folder = folder_of(settings.data_dir, 1)
    if folder.exists():  # a bootstrap that was killed after writing it, or an emptied Redis
        existing = load_snapshot(folder)
        if existing.item_ids == snapshot.item_ids:
            return existing.manifest
        raise SnapshotError(f"{folder}: is of another catalogue; use an empty data directory")
    serving = replace(settings.serving, first_items=len(snapshot.item_ids))
    manifest = replace(snapshot.manifest, version=1, parent=None, serving=serving)
    return save_snapshot(replace(snapshot, manifest=manifest), folder)
