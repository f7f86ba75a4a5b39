"""Policy versions: snapshots on disk, their records and the live pointer in Redis.

The pointer has a mode. `auto`: the worker's next version takes over. `held`: an operator chose this version (activate
without follow, or roll-back) and it stays. `frozen`: the kill switch; everybody gets the pre-trained policy.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import redis as syncredis
import redis.asyncio as aioredis

from service.policy.snapshot import Manifest, Snapshot, SnapshotError
from service.policy.snapshot_files import load_snapshot, read_manifest, save_snapshot
from service.store.keys import Keys
from service.store.lease import Lease
from service.store.scripts import script
from service.store.worker_report import Finding

log = logging.getLogger(__name__)

Mode = Literal["auto", "held", "frozen"]


class Live(msgspec.Struct, frozen=True, omit_defaults=True):
    """The version that serves, and who may change that; `shadow` is the shadow version, which serves nothing."""

    version: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    mode: Mode
    changed_at: float
    shadow: int | None = None


class Gate(msgspec.Struct, frozen=True):
    """Decision whether a version may serve, with the numbers behind it, and the largest share of its learned policy:
    less than 1 while the log cannot judge it yet."""

    passed: bool
    reasons: tuple[str, ...] = ()
    numbers: dict[str, float] = {}
    share: float = 1.0


REFUSALS = {
    "off_policy": "recent slates say that it would have earned less than what served",
    "unproven": "recent slates cannot tell what it would earn, it is far from what serves, and the items that it would "
    "show earned less",
    "not_finite": "its numbers are not finite",
    "learning_failed": "a learning step failed",
}


class PolicyRecord(msgspec.Struct, frozen=True):
    """Record of a version in the registry."""

    version: int
    parent: int | None
    created_at: float
    variant: str
    learner: dict[str, Any]
    lineage: dict[str, Any]
    metrics: dict[str, float]
    gate: Gate
    weights: str = ""  # SHA-256 of its file; not known of older releases' versions


class RollBack(msgspec.Struct, frozen=True):
    """An automatic roll-back: what was found, and what serves since."""

    finding: Finding
    version: int
    mode: Mode
    at: float


class RegistryError(Exception):
    """The requested change is not possible, or what Redis holds of the versions is not ours; the message says why."""


T = TypeVar("T")
_live = msgspec.json.Decoder(Live)
_record = msgspec.json.Decoder(PolicyRecord)
_roll_back_record = msgspec.json.Decoder(RollBack)


def decode_live(data: bytes) -> Live:
    """The live pointer as stored.

    Raises:
        RegistryError: it is none.
    """
    return _decoded(_live, data, "the live pointer cannot be read; activate a version")


def decode_record(data: bytes) -> PolicyRecord:
    """A version's record as stored.

    Raises:
        RegistryError: it is none.
    """
    return _decoded(_record, data, "a version's record cannot be read")


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes, message: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RegistryError(f"{message} ({error})") from None


PUBLISH, ROLL_BACK = script("publish"), script("roll_back")


def folder_of(data_dir: Path, version: int) -> Path:
    """Return the folder of a version's snapshot."""
    return data_dir / "policies" / f"{version:08d}"


def record_of(manifest: Manifest, gate: Gate) -> PolicyRecord:
    """The registry's record of a snapshot."""
    return PolicyRecord(
        version=manifest.version,
        parent=manifest.parent,
        created_at=manifest.created_at,
        variant=str(manifest.serving.variant),
        learner=manifest.learner,
        lineage=manifest.lineage,
        metrics=manifest.metrics,
        gate=gate,
        weights=manifest.weights,
    )


def publish(
    redis: syncredis.Redis,
    lease: Lease,
    keys: Keys,
    data_dir: Path,
    snapshot: Snapshot,
    gate: Gate,
    instead: tuple[int, int] | None = None,
) -> bool:
    """Store a version and, if it passed the gate and nobody holds another, let it serve; says whether it serves.

    `instead`: if it did not pass, and nobody holds another, the second of these versions takes the place of the first.

    Publishing the same version again (a worker that was killed between this and its checkpoint) changes nothing.
    A folder of which the registry has no record was left by a worker that got no further; it is written anew.

    Raises:
        Fenced: another worker has taken over.
        OSError: the snapshot cannot be written.
    """
    folder = folder_of(data_dir, snapshot.manifest.version)
    if folder.exists() and not redis.hexists(keys.policies, str(snapshot.manifest.version)):
        shutil.rmtree(folder)
    manifest = read_manifest(folder) if folder.exists() else save_snapshot(snapshot, folder)
    names, args = publish_call(keys, manifest, gate, instead)
    return bool(lease.write(lambda pipe: pipe.eval(PUBLISH, len(names), *names, *args))[0])


def roll_back_from(lease: Lease, keys: Keys, regression: Finding, target: int | None, first: int) -> bool:
    """Roll back from the versions of a `regression` and hold `target`; without one, everybody gets the frozen policy.

    Says whether the pointer moved: it does not when older versions serve already, so that repeating this changes
    nothing.
    """
    live = Live(first, "frozen", time.time()) if target is None else Live(target, "held", time.time())
    record = msgspec.json.encode(RollBack(regression, live.version, live.mode, live.changed_at))
    names = [keys.live, keys.activations, keys.roll_backs]
    args = [str(regression.since_version), msgspec.json.encode(live), str(live.version), record]
    return bool(lease.write(lambda pipe: pipe.eval(ROLL_BACK, len(names), *names, *args))[0])


def publish_call(
    keys: Keys, manifest: Manifest, gate: Gate, instead: tuple[int, int] | None = None
) -> tuple[list[str], list[str | bytes]]:
    """Keys and arguments of the PUBLISH script."""
    live = Live(manifest.version, "auto", time.time())
    before, after = instead or ("", 0)
    pointer = msgspec.json.encode(Live(after, "auto", live.changed_at))
    record = msgspec.json.encode(record_of(manifest, gate))
    names = [keys.policies, keys.live, keys.activations]
    passed = "1" if gate.passed else "0"
    return names, [str(manifest.version), record, msgspec.json.encode(live), passed, str(before), pointer, str(after)]


def prune(redis: syncredis.Redis, keys: Keys, data_dir: Path, keep: int, kept: set[int]) -> None:
    """Delete old snapshots: all but `kept`, the last `keep`, the first, the live and those a roll-back may need."""
    versions = sorted(int(v) for v in redis.hkeys(keys.policies))
    live = get_live(redis, keys)
    stack = [int(v) for v in redis.lrange(keys.activations, -keep, -1)]
    needed = {*kept, *versions[-keep:], *versions[:1], *stack, *([live.version] if live else [])}
    for version in versions:
        if version not in needed:
            redis.hdel(keys.policies, str(version))
            shutil.rmtree(folder_of(data_dir, version), ignore_errors=True)


def get_live(redis: syncredis.Redis, keys: Keys) -> Live | None:
    """The live pointer, None in an empty registry."""
    data = redis.get(keys.live)
    return decode_live(data) if data is not None else None


def get_record(redis: syncredis.Redis, keys: Keys, version: int) -> PolicyRecord | None:
    """One version, None if it was never published."""
    data = redis.hget(keys.policies, str(version))
    return decode_record(data) if data else None


class Registry:
    """The API's view: list versions and move the pointer."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def live(self) -> Live | None:
        """The live pointer, None in an empty registry."""
        data = await self._redis.get(self._keys.live)
        return decode_live(data) if data is not None else None

    async def records(self) -> list[PolicyRecord]:
        """All versions, newest first."""
        records = [decode_record(data) for data in (await self._redis.hgetall(self._keys.policies)).values()]
        return sorted(records, key=lambda record: -record.version)

    async def roll_backs(self) -> list[RollBack]:
        """Automatic roll-backs, newest first."""
        return [
            _decoded(_roll_back_record, data, "a roll-back's record cannot be read")
            for data in await self._redis.lrange(self._keys.roll_backs, 0, -1)
        ]

    async def served(self) -> list[int]:
        """The versions that served, newest first, and the first of all."""
        stack = [int(version) for version in await self._redis.lrange(self._keys.activations, 0, -1)]
        return list(dict.fromkeys([*reversed(stack), 1]))

    async def record(self, version: int) -> PolicyRecord | None:
        """One version."""
        data = await self._redis.hget(self._keys.policies, str(version))
        return decode_record(data) if data else None

    async def activate(self, version: int, follow: bool, data_dir: Path, force: bool = False) -> Live:
        """Let `version` serve if it can be loaded from `data_dir`; with `follow`, later versions may take over.

        Raises:
            RegistryError: the version did not pass its gate, and it is not to be by `force`, or it is damaged.
            LookupError: there is no such version.
        """
        record = await self.record(version)
        if record is None:
            raise LookupError(f"there is no policy version {version}")
        if not record.gate.passed and not force:
            reasons = ", ".join(record.gate.reasons)
            raise RegistryError(
                f"version {version} did not pass the gate: {reasons}; `force` activates it all the same"
            )
        try:
            await asyncio.to_thread(load_snapshot, folder_of(data_dir, version))
        except SnapshotError as error:
            log.error("version %d was not activated: %s", version, error)
            raise RegistryError(f"version {version} is damaged") from None
        return await self._move(Live(version, "auto" if follow else "held", time.time()), push=True)

    async def roll_back(self) -> Live:
        """Let the version that served before serve again, and hold it.

        Raises:
            RegistryError: no earlier version ever served.
        """
        keys = self._keys
        async with self._redis.pipeline(transaction=True) as pipe:
            await pipe.watch(keys.live, keys.activations)
            live = await pipe.get(keys.live)
            pointer = decode_live(live) if live is not None else None
            current = pointer.version if pointer else None
            stack = [int(v) for v in await pipe.lrange(keys.activations, 0, -1)]
            kept = {int(v) for v in await pipe.hkeys(keys.policies)}
            while stack and (stack[-1] == current or stack[-1] not in kept):
                stack.pop()
            if not stack:
                raise RegistryError("no earlier version to roll back to")
            target = Live(stack[-1], "held", time.time(), pointer.shadow if pointer else None)
            pipe.multi()
            pipe.delete(keys.activations)
            pipe.rpush(keys.activations, *stack)
            pipe.set(keys.live, msgspec.json.encode(target))
            await pipe.execute()
        return target

    async def shadow(self, version: int) -> Live:
        """Make `version`, and then each new one, the shadow version: it serves nothing. The version that serves is held
        until a version is activated, which ends this.

        Raises:
            RegistryError: the registry is empty.
            LookupError: there is no such version.
        """
        live = await self.live()
        if live is None:
            raise RegistryError("no policy is published yet")
        if await self.record(version) is None:
            raise LookupError(f"there is no policy version {version}")
        mode: Mode = "frozen" if live.mode == "frozen" else "held"
        return await self._move(Live(live.version, mode, time.time(), version), push=False)

    async def freeze(self) -> Live:
        """Kill switch: serve the pre-trained policy to everybody until a version is activated.

        Raises:
            RegistryError: the registry is empty.
        """
        live = await self.live()
        if live is None:
            raise RegistryError("no policy is published yet")
        return await self._move(Live(live.version, "frozen", time.time(), live.shadow), push=False)

    async def _move(self, live: Live, push: bool) -> Live:
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(self._keys.live, msgspec.json.encode(live))
        if push:
            pipe.rpush(self._keys.activations, live.version)
        await pipe.execute()
        return live
