"""The service under load: against other servers, while it learns, and how soon it knows what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
import redis as syncredis

from service.store import event_log, events
from service.store.registry import PolicyRecord
from service.store.worker_report import decode_report
from tests.bench.stage import KEYS, Program, Stage, free_port, load_users, make_snapshot, program, redis_server
from tests.bench.traffic import CONNECTIONS, Answered, OpenLoop, arrivals, closed_loop, open_loop, percentiles

API_CORE, OTHER_CORE, BOTH_CORES = 0, 1, "0,1"
N_ITEMS, N_USERS = 10_000, 10_000
ROUNDS, ROUND_S, WARM_S = 3, 5, 2
OPEN_S, OPEN_SHARE = 20.0, 0.7
REFERENCES = {
    "bare": "bare ASGI, two bytes",
    "echo": "FastAPI + pydantic echo",
    "echo_redis": "that echo with one GET and one XADD (redis-py)",
    "vw_10": "that echo around a Vowpal Wabbit bandit, 10 actions",
    "vw_100": "that echo around a Vowpal Wabbit bandit, 100 actions",
    "litserve": "our policy alone, served by LitServe",
}
Record = dict[str, Any]
# A version that a random user's clicks taught would seldom pass; here each one shall be loaded and swapped in.
OPEN_GATE = {
    "IALP_GATE_ENTROPY_FLOOR": "0",
    "IALP_GATE_MAX_KL": "1e9",
    "IALP_GATE_MAX_KL_TO_FROZEN": "1e9",
    "IALP_GATE_COVERAGE_FLOOR": "0",
    "IALP_GATE_MARGIN": "1e9",
}


@contextlib.contextmanager
def stage(folder: Path, **settings: str) -> Iterator[tuple[Stage, syncredis.Redis]]:
    """A deployment of 10,000 items and 10,000 users, with Redis on the other core."""
    snapshot = make_snapshot(folder / "snapshot", N_ITEMS)
    with redis_server(folder / "redis", OTHER_CORE) as url, syncredis.from_url(url) as redis:
        load_users(redis, N_USERS, N_ITEMS)
        yield Stage(folder, url, snapshot, settings), redis


@contextlib.contextmanager
def running(on: Program) -> Iterator[None]:
    """A stopped process may go on for the length of the block."""
    os.killpg(on.process.pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(on.process.pid, signal.SIGSTOP)


def _reference(name: str, port: int, folder: Path, environment: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "tests.bench.subjects", name, str(port)]
    if name == "litserve":
        command = [sys.executable, "-m", "tests.bench.served_model", str(port)]
    return program(command, folder / f"{name}.log", API_CORE, environment, f"http://127.0.0.1:{port}/health")


def hot_path(folder: Path) -> Record:
    """Requests per second on one core, in turns with the references; then latencies at 70% of our own maximum."""
    with stage(folder) as (on, redis), contextlib.ExitStack() as stack:
        subjects: dict[str, tuple[Program, str, str | None]] = {}
        for name in REFERENCES:
            port = free_port()
            environment = {"REDIS_URL": on.redis_url, "BENCH_SNAPSHOT": str(on.snapshot)}
            started = stack.enter_context(_reference(name, port, folder, environment))
            subjects[name] = started, f"http://127.0.0.1:{port}/recommend", None
            os.killpg(started.process.pid, signal.SIGSTOP)
        api = stack.enter_context(on.service("api", API_CORE))
        key = on.key("serve")
        time.sleep(1.0)  # until the key is known
        subjects = {"ours": (api, f"{api.url}/recommend", key), **subjects}
        for started, _, _ in subjects.values():
            stack.callback(os.killpg, started.process.pid, signal.SIGCONT)  # before it is told to end
        rounds: dict[str, list[Any]] = {name: [] for name in subjects}
        cpu_us: list[float] = []
        redis_us: list[float] = []
        os.killpg(api.process.pid, signal.SIGSTOP)
        for _ in range(ROUNDS):
            for name, (started, url, token) in subjects.items():
                with running(started):
                    closed_loop(url, WARM_S, N_USERS, token, OTHER_CORE)
                    before, redis_before = started.cpu_s, _redis_cpu_s(redis)
                    done = closed_loop(url, ROUND_S, N_USERS, token, OTHER_CORE)
                    if name == "ours":
                        requests = ROUND_S * done.per_second
                        cpu_us.append((started.cpu_s - before) / requests * 1e6)
                        redis_us.append((_redis_cpu_s(redis) - redis_before) / requests * 1e6)
                rounds[name].append(done)
        most = median(done.per_second for done in rounds["ours"])
        with running(api):
            answers = asyncio.run(open_loop(api.url, OPEN_SHARE * most, OPEN_S, N_USERS, key, seed=1))
        resident = api.resident_bytes
    return {
        "connections": CONNECTIONS,
        "rounds": {
            name: {
                "per_second": [round(done.per_second, 1) for done in all_done],
                "p50_ms": median(done.p50_ms for done in all_done),
                "p99_ms": median(done.p99_ms for done in all_done),
                "failed": sum(done.failed for done in all_done),
            }
            for name, all_done in rounds.items()
        },
        "cpu_us_per_request": round(median(cpu_us), 1),
        "redis_us_per_request": round(median(redis_us), 1),
        "resident_mib": round(resident / 2**20),
        "open": {"rate": round(OPEN_SHARE * most), **_told(answers)},
    }


def _redis_cpu_s(redis: syncredis.Redis) -> float:
    cpu = redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def _told(answers: list[Answered]) -> Record:
    failed = sum(answer.status != 200 for answer in answers)
    warned = sum(bool(json.loads(a.body)["warnings"]) for a in answers if a.status == 200)
    return {
        "requests": len(answers),
        "failed": failed,
        "with_warnings": warned,
        **percentiles([answer.milliseconds for answer in answers]),
    }


# Innermost first: a stack belongs to the first of these that it has a frame of.
_PARTS = {
    "FastScorer.plain": "the policy: all items, one matrix product a network",
    "candidates_of": "the policy: ranking candidates",
    "FastScorer.near": "the policy: closeness of the candidates",
    "_drawn": "the policy: probabilities, sampling and the rest",
    "SessionStore.load": "sessions, from Redis",
    "EventLog.append_impressions": "the log, to Redis",
    "recommend": "the request: masks, the impression, the answer",
    "FastPath.__call__": "the request: key, body, JSON",
    "Edge.__call__": "the request: limits, id, metrics",
}
_REST = "uvicorn, the event loop and the kernel"
FLAME = Path("docs/img/performance-flame.svg")


def profile(folder: Path) -> Record:
    """Where the API's time goes under a closed loop, by py-spy: shares of its parts, and a flame graph."""
    spy = str(Path(sys.executable).with_name("py-spy"))
    with stage(folder) as (on, _), on.service("api", API_CORE) as api:
        key = on.key("serve")
        time.sleep(1.0)
        url = f"{api.url}/recommend"
        closed_loop(url, WARM_S, N_USERS, key, OTHER_CORE)
        for form, out in (("raw", folder / "stacks.txt"), ("flamegraph", FLAME)):
            recorded = ["--rate", "200", "--duration", "8", "--format", form, "--output", str(out)]
            command = [spy, "record", "--pid", str(api.process.pid), *recorded]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spying:
                closed_loop(url, 10, N_USERS, key, OTHER_CORE)
                if spying.wait() != 0:
                    raise RuntimeError("py-spy may not look into the API: run as root, or allow ptrace")
    # Its title is the command, with the paths of this machine.
    FLAME.write_text(re.sub(f'{re.escape(spy)}[^<"]*', "POST /recommend under load, by py-spy", FLAME.read_text()))
    shares: Counter[str] = Counter()
    for line in (folder / "stacks.txt").read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = {frame.partition(" (")[0].partition(".<")[0] for frame in stack.split(";")}
        if "Runner.run" not in frames:  # a thread that waits for snapshots to load
            continue
        part = next((name for name in _PARTS if name in frames), None)
        shares[_PARTS[part] if part else _REST] += int(samples)
    total = sum(shares.values())
    return {"samples": total, "shares": {name: round(shares[name] / total, 4) for name in [*_PARTS.values(), _REST]}}


def while_learning(folder: Path) -> Record:
    """The same API, first alone, then with a worker that learns from its log and publishes about once a second."""
    settings = {"IALP_REWARD_WINDOW_S": "1", "IALP_PUBLISH_EVERY": "500", **OPEN_GATE}
    with stage(folder, **settings) as (on, redis), on.service("api", API_CORE) as api:
        key = on.key("serve")
        time.sleep(1.0)
        url = f"{api.url}/recommend"
        closed_loop(url, WARM_S, N_USERS, key, OTHER_CORE)
        most = closed_loop(url, 2 * ROUND_S, N_USERS, key, OTHER_CORE)
        rate = OPEN_SHARE * most.per_second
        alone = asyncio.run(open_loop(api.url, rate, OPEN_S, N_USERS, key, seed=2))
        # The control: a program on the same core that is no worker, but as busy.
        burner = [sys.executable, "-c", "import numpy as np; x = np.ones((2_000, 500))\nwhile True: x @ x.T"]
        with program(burner, folder / "burner.log", OTHER_CORE, {}, nice=19):
            burning = asyncio.run(open_loop(api.url, rate, OPEN_S, N_USERS, key, seed=2))
            with_burner = closed_loop(url, 2 * ROUND_S, N_USERS, key, OTHER_CORE)
        redis.xtrim(KEYS.events, maxlen=0)  # the worker begins with what comes now
        # It takes what the client and Redis leave of their core: what is asked is what the API suffers from it.
        with on.service("worker", OTHER_CORE, nice=19):
            _until(lambda: _report(redis) is not None, "the worker")
            first = _version(api.url)
            began = time.monotonic()
            learning = asyncio.run(open_loop(api.url, rate, OPEN_S, N_USERS, key, seed=3))
            swaps, took_s = _version(api.url) - first, time.monotonic() - began
            with_worker = closed_loop(url, 2 * ROUND_S, N_USERS, key, OTHER_CORE)
            report = _report(redis)
    assert report is not None
    return {
        "rate": round(rate),
        "alone": {"per_second": most.per_second, "failed_closed": most.failed, **_told(alone)},
        "burning": {"per_second": with_burner.per_second, "failed_closed": with_burner.failed, **_told(burning)},
        "learning": {"per_second": with_worker.per_second, "failed_closed": with_worker.failed, **_told(learning)},
        "versions_per_second": swaps / took_s,
        "closed": report.closed,
        "refused_by_gate": sum(report.gate_rejections.values()),
    }


def freshness(folder: Path) -> Record:
    """200 clicks a second: what the same user's next slate knows of them, and when weights that learned them serve."""
    window_s, rate, seconds = 0.5, 200.0, 30.0
    # As docs/scaling.md says for such a rate: larger steps, and a version a second.
    often = {"IALP_LEARN_EVERY": "100", "IALP_PUBLISH_EVERY": "300", "IALP_KEEP_VERSIONS": "1000"}
    settings = {"IALP_REWARD_WINDOW_S": str(window_s), **often, **OPEN_GATE}
    # API and worker on whichever core is free: four programs are at work, and what is asked is not what one core does.
    with stage(folder, **settings) as (on, redis), on.service("api", BOTH_CORES) as api:
        key = on.key("serve,feedback")
        time.sleep(1.0)
        with on.service("worker", BOTH_CORES):
            _until(lambda: _report(redis) is not None, "the worker")
            clicks, served = asyncio.run(_click_for(api.url, key, rate, seconds))
            last = max(served)
            records = {v: _record(redis, v) for v in served}
        log = {entry: events.decode(data) for entry, data in event_log.read(redis, KEYS, "0-0", 10**6, 1)}
    at_ms = {e.event_id: event_log.entry_ms(i) for i, e in log.items() if isinstance(e, events.Feedback)}
    histories = {e.recommendation_id: dict(e.history) for e in log.values() if isinstance(e, events.Impression)}
    shown_ms = {e.recommendation_id: event_log.entry_ms(i) for i, e in log.items() if isinstance(e, events.Impression)}
    known = sum(histories[click.next_slate].get(click.item) == 1.0 for click in clicks)  # 0: shown, and no click
    # An impression is learned from once the log has gone on by the reward window, as the version's lineage tells.
    learned_ms = {v: event_log.entry_ms(str(record.lineage["cursor"])) for v, record in records.items() if record}
    delays = []
    for click in clicks:
        closes_ms = shown_ms[click.slate] + 1e3 * window_s
        by = [served[v] for v, cursor_ms in learned_ms.items() if cursor_ms >= closes_ms and served[v] > click.acked_s]
        if by:
            delays.append(min(by) - click.acked_s)
    return {
        "clicks": len(clicks),
        "logged": len(at_ms),
        "known_to_next_slate": known,
        "reward_window_s": window_s,
        "versions": last,
        "in_weights": len(delays),
        "delay_s": {name: value / 1e3 for name, value in percentiles([1e3 * d for d in delays]).items()},
    }


class Click(msgspec.Struct):
    """A click, and the slate that the same user asked for right after its 202."""

    slate: str
    item: str
    acked_s: float
    next_slate: str


async def _click_for(url: str, key: str, rate: float, seconds: float) -> tuple[list[Click], dict[int, float]]:
    clicks: list[Click] = []
    served: dict[int, float] = {}  # version -> when it was first seen to serve
    over = asyncio.Event()

    async def watch(client: httpx.AsyncClient) -> None:
        while not over.is_set():
            version = (await client.get(f"{url}/readyz")).json()["policy_version"]
            served.setdefault(version, time.monotonic())
            await asyncio.sleep(0.05)

    async def one(client: OpenLoop, number: int) -> None:
        user = f"u{number % N_USERS}"
        slate = json.loads((await client.post("/recommend", {"user_id": user, "k": 10})).body)
        item, slate_id = slate["items"][number % 10]["item_id"], slate["recommendation_id"]
        event = {"event_id": f"e{number}", "user_id": user, "item_id": item, "type": "click"}
        acked = await client.post("/feedback", event | {"recommendation_id": slate_id})
        if acked.status == 202:
            following = json.loads((await client.post("/recommend", {"user_id": user, "k": 10})).body)
            clicks.append(Click(slate_id, item, acked.done_s, following["recommendation_id"]))

    async with httpx.AsyncClient() as readyz, OpenLoop(url, key) as client, asyncio.TaskGroup() as group:
        watching = group.create_task(watch(readyz))
        began = time.monotonic()
        tasks = []
        for number, at in enumerate(arrivals(rate, seconds, seed=4)):
            if (wait_s := began + at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(group.create_task(one(client, number)))
        await asyncio.gather(*tasks)
        await asyncio.sleep(4.0)  # for the last ones to be learned
        over.set()
        await watching
    return clicks, served


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.05)


def _report(redis: syncredis.Redis) -> Any:
    data = redis.get(KEYS.worker)
    return decode_report(data) if data else None


def _version(url: str) -> int:
    return int(httpx.get(f"{url}/readyz").json()["policy_version"])


def _record(redis: syncredis.Redis, version: int) -> PolicyRecord | None:
    data = redis.hget(KEYS.policies, str(version))
    record = msgspec.json.decode(data, type=PolicyRecord) if data else None
    return record if record is not None and "cursor" in record.lineage else None
