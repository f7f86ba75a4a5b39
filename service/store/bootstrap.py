"""Fills an empty registry with the snapshot that `offline pretrain` wrote: version 1, the frozen control for ever."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import redis.asyncio as aioredis

from service.policy.snapshot import Manifest, Snapshot, SnapshotError
from service.policy.snapshot_files import load_catalogue, load_snapshot, read_manifest, save_snapshot
from service.settings import Settings
from service.store.catalogue import CatalogueStore, ItemRecord, pack_embedding
from service.store.keys import Keys
from service.store.properties import stored_properties
from service.store.registry import PUBLISH, Gate, Registry, folder_of, publish_call

log = logging.getLogger(__name__)

_LOCK_S = 60
_BATCH = 500


async def bootstrap(redis: aioredis.Redis, keys: Keys, settings: Settings) -> bool:
    """Publish `settings.snapshot` as version 1 if nothing is published yet; says whether it did. Where Redis knows of
    versions and their folder has none, the first of them is brought back from the snapshot, if that is what it was.

    Safe to call from several processes at once: one does it under a lock, the others wait for it.

    Raises:
        SnapshotError: the snapshot is damaged, or carries no catalogue; Redis already holds other items; or versions on
            disk and in Redis are not of one deployment. The message says what to do.
    """
    registry = Registry(redis, keys)
    if await registry.live() is not None:
        if not folder_of(settings.data_dir, 1).exists() and await registry.record(1) is not None:
            async with redis.lock(keys.bootstrap, timeout=_LOCK_S, blocking_timeout=_LOCK_S):
                await _bring_back(registry, settings)
        elif settings.snapshot is not None:
            await asyncio.to_thread(_warn_of_another, settings.snapshot, folder_of(settings.data_dir, 1))
        return False
    await _check_for_strays(redis, keys, settings)
    if settings.snapshot is None:
        return False
    check_snapshot(settings.snapshot)
    snapshot = await asyncio.to_thread(load_snapshot, settings.snapshot)
    catalogue = await asyncio.to_thread(load_catalogue, settings.snapshot)
    items = [
        (
            item.item_id,
            ItemRecord(item.text, pack_embedding(row), item.categories, properties=stored_properties(item.properties)),
        )
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


def check_snapshot(folder: Path) -> None:
    """See that a folder is a snapshot that a deployment can begin with.

    Raises:
        SnapshotError: it is none, or one of the versions that a service publishes, which have no catalogue.
    """
    if not read_manifest(folder).has_catalogue:
        raise SnapshotError(
            f"{folder}: is a version that a service published, which has no catalogue of its own; name the folder that "
            "`python -m offline pretrain` wrote, or, to go on with that deployment, its IALP_DATA_DIR"
        )


async def _bring_back(registry: Registry, settings: Settings) -> None:
    """Restore the first version from the snapshot that it was published from."""
    first, given = await registry.record(1), settings.snapshot
    lost = (
        f"{settings.data_dir / 'policies'}: has no versions, and Redis knows of some (prefix {settings.key_prefix!r}). "
        "Put the folder back, or point IALP_DATA_DIR to it"
    )
    if _versions_in(settings):  # others can be served
        return
    if given is None:
        raise SnapshotError(f"{lost}; or name the snapshot that the deployment began with (IALP_SNAPSHOT)")
    snapshot = await asyncio.to_thread(load_snapshot, given)
    manifest = snapshot.manifest
    same = first is not None and (manifest.created_at, manifest.metrics) == (first.created_at, first.metrics)
    if first is None or not same or first.weights not in ("", manifest.weights):
        raise SnapshotError(f"{lost}; {given} is not what the deployment began with. Or take another IALP_KEY_PREFIX")
    await asyncio.to_thread(_first_version, snapshot, settings)
    log.warning(
        "%s had no versions: the first is brought back from %s, and serves until the next one is published",
        settings.data_dir / "policies",
        given,
    )


def _versions_in(settings: Settings) -> list[int]:
    return [int(folder.name) for folder in settings.data_dir.glob("policies/*") if folder.name.isdigit()]


async def _check_for_strays(redis: aioredis.Redis, keys: Keys, settings: Settings) -> None:
    """Refuse to start if Redis knows nothing of versions on disk beyond the first: this is not a new deployment."""
    latest = max(_versions_in(settings), default=0)
    if latest <= 1:
        return
    ending = keys.live.removeprefix(keys.prefix)
    prefixes = [key.decode().removesuffix(ending) async for key in redis.scan_iter(match=f"*{ending}", count=10_000)]
    deployments = f"It has deployments with IALP_KEY_PREFIX={', '.join(sorted(prefixes)[:5])}. " if prefixes else ""
    raise SnapshotError(
        f"{settings.data_dir / 'policies'}: has versions up to {latest}, and Redis knows nothing of them under the "
        f"prefix {settings.key_prefix!r}. {deployments}To go on with them restore Redis, or correct IALP_KEY_PREFIX; "
        "for a new deployment name an empty IALP_DATA_DIR"
    )


def _warn_of_another(given: Path, first: Path) -> None:
    try:
        same = read_manifest(given).weights == read_manifest(first).weights
    except SnapshotError:
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
