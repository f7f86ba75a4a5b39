"""The faults: each breaks something of a running deployment, holds, and mends it.

A fault is over when its function returns. What it returns goes into the record.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from service.store import events
from service.store.registry import Live, folder_of, get_live, get_record
from tests.chaos import disks
from tests.chaos.deployment import Deployment
from tests.service.service_examples import until

Hold = Callable[..., None]  # hold(share=1.0): wait for that share of the fault's time
Strike = Callable[[Deployment, Hold], dict[str, Any] | None]
_HOUR_S = 3600


@dataclass(frozen=True)
class Fault:
    """What breaks, and what must not be seen of it."""

    name: str
    strike: Strike
    tells: str  # for the page
    api_stays: bool = True  # every request gets an answer, /recommend always 200
    redis_stays: bool = True  # all feedback is taken at once, but for back-pressure
    event_time_stays: bool = True  # the log's clock goes on after it
    prepare: Callable[[Path], contextlib.AbstractContextManager[object]] = field(default=contextlib.nullcontext)
    deployment: dict[str, Any] = field(default_factory=dict)


FAULTS: list[Fault] = []


def _fault(tells: str, **facts: Any) -> Callable[[Strike], Strike]:
    def register(strike: Strike) -> Strike:
        FAULTS.append(Fault(strike.__name__, strike, tells, **facts))
        return strike

    return register


@_fault("SIGKILL of the only API; started again", api_stays=False)
def api_killed(d: Deployment, hold: Hold) -> None:
    d.api.kill()
    hold()
    d.api.start()


@_fault("SIGKILL of one of two APIs; clients try the other", api_stays=False, deployment={"apis": 2})
def one_of_two_apis_killed(d: Deployment, hold: Hold) -> None:
    d.api.kill()
    hold()
    d.api.start()


@_fault("SIGTERM to the only API; started again", api_stays=False)
def api_stopped(d: Deployment, hold: Hold) -> None:
    d.api.stop()
    hold()
    d.api.start()


@_fault("SIGSTOP of the only API, then SIGCONT", api_stays=False)
def api_paused(d: Deployment, hold: Hold) -> None:
    d.api.pause()
    hold()
    d.api.resume()


@_fault("SIGKILL of the worker; started again")
def worker_killed(d: Deployment, hold: Hold) -> None:
    d.worker.kill()
    hold()
    d.worker.start()


@_fault("SIGSTOP of the worker, then SIGCONT")
def worker_paused(d: Deployment, hold: Hold) -> None:
    d.worker.pause()
    hold()
    d.worker.resume()


@_fault("A second worker is started by mistake, and stopped")
def second_worker(d: Deployment, hold: Hold) -> None:
    second = d.service("worker")
    d.also(second)
    second.start()
    hold()
    second.stop()


@_fault("The worker is paused, another takes over, the first wakes up, the other is killed")
def worker_replaced_while_paused(d: Deployment, hold: Hold) -> None:
    second = d.service("worker")
    d.also(second)
    d.worker.pause()
    second.start()
    hold(0.75)
    d.worker.resume()
    hold(0.25)
    second.kill()


@_fault("SIGKILL of the Redis-protocol server; started again on its append-only file", redis_stays=False)
def redis_killed(d: Deployment, hold: Hold) -> None:
    d.server.kill()
    hold()
    d.server.start()


@_fault("SIGSTOP of the Redis-protocol server, then SIGCONT", redis_stays=False)
def redis_paused(d: Deployment, hold: Hold) -> None:
    d.server.pause()
    hold()
    d.server.resume()


@_fault("Every process is killed at once, as by a power cut; all started again", api_stays=False, redis_stays=False)
def all_killed(d: Deployment, hold: Hold) -> None:
    everything = (d.server, d.worker, *d.apis)
    for process in everything:
        process.kill()
    hold()
    for process in everything:
        process.start()


@_fault("All connections to Redis are reset, again and again", redis_stays=False, deployment={"proxied": True})
def connections_reset(d: Deployment, hold: Hold) -> None:
    assert d.proxy is not None
    for _ in range(10):
        d.proxy.cut()
        hold(0.1)


@_fault("New connections to Redis are refused, open ones reset", redis_stays=False, deployment={"proxied": True})
def connections_refused(d: Deployment, hold: Hold) -> None:
    assert d.proxy is not None
    d.proxy.refuse()
    hold()
    d.proxy.accept()


@_fault("Nothing passes between the service and Redis", redis_stays=False, deployment={"proxied": True})
def connections_stalled(d: Deployment, hold: Hold) -> None:
    assert d.proxy is not None
    d.proxy.stall("commands", "answers")
    hold()
    d.proxy.flow()


@_fault(
    "Commands reach Redis, its answers are lost: what was done is not known",
    redis_stays=False,
    deployment={"proxied": True},
)
def answers_lost(d: Deployment, hold: Hold) -> None:
    assert d.proxy is not None
    d.proxy.stall("answers")
    hold()
    d.proxy.cut()
    d.proxy.flow()


@_fault("Redis is out of memory (maxmemory, no eviction), then has room again", redis_stays=False)
def redis_out_of_memory(d: Deployment, hold: Hold) -> None:
    d.redis.config_set("maxmemory", 1)
    hold()
    d.redis.config_set("maxmemory", 0)


@contextlib.contextmanager
def _small_checkpoint_disk(folder: Path) -> Iterator[None]:
    with disks.small_disk(folder / "data" / "worker"):
        yield


@contextlib.contextmanager
def _small_redis_disk(folder: Path) -> Iterator[None]:
    with disks.small_disk(folder / "redis"):
        yield


@_fault("The disk of the checkpoints is full (ENOSPC on a small file system)", prepare=_small_checkpoint_disk)
def disk_full(d: Deployment, hold: Hold) -> None:
    ballast = disks.fill(d.settings.data_dir / "worker")
    hold()
    ballast.unlink()


@_fault("The disk of Redis is full: it ends itself; started again", redis_stays=False, prepare=_small_redis_disk)
def redis_disk_full(d: Deployment, hold: Hold) -> None:
    ballast = disks.fill(d.server.folder)
    hold()
    ballast.unlink()
    d.server.clear()
    d.server.start()


@_fault("The worker can write no file beyond 8 kB (EFBIG): neither checkpoints nor versions")
def files_limited(d: Deployment, hold: Hold) -> None:
    disks.limit_files(d.worker.pid, 8_192)
    hold()
    disks.limit_files(d.worker.pid, None)


@_fault("Each fsync of API and worker takes 0.3 s longer (both were restarted)", api_stays=False)
def disk_slow(d: Deployment, hold: Hold) -> None:
    d.replace(fsync_s=0.3)
    until(lambda: d.ready(d.urls[0]), "readiness")
    hold()
    d.replace()


@_fault("The clocks of API and worker are an hour ahead (both were restarted)", api_stays=False)
def clocks_ahead(d: Deployment, hold: Hold) -> None:
    d.replace(clock_s=_HOUR_S)
    until(lambda: d.ready(d.urls[0]), "readiness")
    hold()
    d.replace()


@_fault("The log holds an entry of an hour ahead, as a server's clock leaves it that jumped", event_time_stays=False)
def log_ahead(d: Deployment, hold: Hold) -> None:
    ahead = int((time.time() + _HOUR_S) * 1000)
    entry = {events.FIELD: events.encode(events.UserErased("u:nobody"))}
    d.redis.xadd(d.keys.events, entry, id=f"{ahead}-0")
    hold()


@_fault(
    "The Redis-protocol server's clock jumps an hour ahead and back",
    event_time_stays=False,
    deployment={"movable_clock": True},
)
def redis_clock_jumps(d: Deployment, hold: Hold) -> None:
    d.move_clock(_HOUR_S)
    hold(0.5)
    d.move_clock(0)
    hold(0.5)


@_fault(
    "The Redis-protocol server's clock jumps an hour back and ahead again",
    deployment={"movable_clock": True},
)
def redis_clock_falls_back(d: Deployment, hold: Hold) -> None:
    d.move_clock(-_HOUR_S)
    hold(0.5)
    d.move_clock(0)
    hold(0.5)


@_fault("The newest version is damaged on disk before it is loaded; an operator rolls back")
def newest_version_corrupt(d: Deployment, hold: Hold) -> dict[str, Any]:
    live = get_live(d.redis, d.keys)
    assert live is not None
    d.post(f"/policies/{live.version}:activate", follow=False)  # held: later ones do not serve
    version = _next_version(d)
    damaged_at = _flip_byte(folder_of(d.settings.data_dir, version) / "policy.safetensors")
    pointer = Live(version, "held", time.time())
    d.redis.set(d.keys.live, msgspec.json.encode(pointer))  # as the worker does; the API would refuse to activate it
    hold()
    d.post("/policies:rollback")
    return {"corrupt_version": version, "damaged_at": damaged_at}


@_fault("The live version is damaged on disk and the API restarted; an operator rolls back", api_stays=False)
def live_version_corrupt(d: Deployment, hold: Hold) -> dict[str, Any]:
    live = get_live(d.redis, d.keys)
    assert live is not None
    d.post(f"/policies/{live.version}:activate", follow=False)  # held: the next version does not take over
    d.api.kill()
    damaged_at = _flip_byte(folder_of(d.settings.data_dir, live.version) / "policy.safetensors")
    d.api.start()
    hold()
    until(lambda: d.alive(d.urls[0]), "the API")
    d.post("/policies:rollback")
    return {"corrupt_version": live.version, "damaged_at": damaged_at}


@_fault("The worker's newest checkpoint is torn while it is down")
def checkpoint_torn(d: Deployment, hold: Hold) -> None:
    folder = d.settings.data_dir / "worker"
    until(lambda: len(list(folder.glob("*"))) >= 2, "two checkpoints")
    d.worker.kill()
    newest = max(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns)
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size // 2)
    hold()
    d.worker.start()


def _next_version(d: Deployment) -> int:
    version = d.report.version + 1
    until(lambda: get_record(d.redis, d.keys, version) is not None, "another version")
    return version


def _flip_byte(path: Path) -> float:
    """Returns when, monotonic."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return time.monotonic()
