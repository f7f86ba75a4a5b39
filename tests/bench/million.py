"""A million items behind the same /recommend: one request, the process's memory, and how soon a new item is there."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import redis as syncredis

from tests.bench.serving import API_CORE, N_USERS, OTHER_CORE
from tests.bench.stage import HISTORY, Program, Stage, load_users, make_snapshot, redis_server
from tests.bench.traffic import closed_loop, percentiles

Record = dict[str, Any]
N_ITEMS = 1_000_000
_ASKED, _NEW = 600, 20
_START_S = 600.0


def million_items(folder: Path) -> Record:
    """With histories of 20, an API key and the log, as on the hot path, but one request at a time."""
    snapshot = make_snapshot(folder / "snapshot", N_ITEMS)
    with redis_server(folder / "redis", OTHER_CORE) as url, syncredis.from_url(url) as redis:
        on = Stage(folder, url, snapshot)
        with on.service("api", API_CORE, start_s=_START_S) as api:  # puts the items into Redis
            first_s = api.started_s
        load_users(redis, N_USERS, N_ITEMS)
        redis_bytes = redis.info("memory")["used_memory"]
        while redis.info("persistence")["aof_rewrite_in_progress"]:  # of the items' coming, seconds of a core
            time.sleep(0.1)
        key = on.key("serve,admin")
        with (
            on.service("api", API_CORE, start_s=_START_S) as api,
            httpx.Client(base_url=api.url, headers={"X-API-Key": key}, timeout=30) as client,
        ):
            asked = [_ask(client, {"user_id": f"u{n % N_USERS}", "k": 10}) for n in range(_ASKED)]
            few = [f"item-{n}" for n in range(0, N_ITEMS, 1_100)][:900]
            named = [_ask(client, {"user_id": f"u{n}", "candidate_item_ids": few}) for n in range(50)]
            resident = api.resident_bytes
            alone = closed_loop(f"{api.url}/recommend", 8, N_USERS, key, OTHER_CORE, connections=1)
            closed = closed_loop(f"{api.url}/recommend", 8, N_USERS, key, OTHER_CORE)
            new_ms = [_new_item(client, n) for n in range(_NEW)]
            after = [_ask(client, {"user_id": f"u{n % N_USERS}", "k": 10}) for n in range(_ASKED // 2)]
            return {
                "items": N_ITEMS,
                "history": HISTORY,
                "first_s": round(first_s, 1),
                "again_s": round(api.started_s, 1),
                "one_ms": percentiles(asked[20:]),
                "named_ms": percentiles(named),
                "after_new_items_ms": percentiles(after),
                "alone_ms": {"p50": alone.p50_ms, "p99": alone.p99_ms},
                "per_second": closed.per_second,
                "failed": alone.failed + closed.failed,
                "new_item_ms": {"p50": round(median(new_ms), 1), "max": round(max(new_ms), 1)},
                "resident_mib": round(resident / 2**20),
                "resident_after_mib": round(api.resident_bytes / 2**20),
                "peak_mib": _peak_mib(api),
                "redis_mib": round(redis_bytes / 2**20),
            }


def _ask(client: httpx.Client, body: Record) -> float:
    """Milliseconds of a request to /recommend, which a policy answers; its log may have been late."""
    began = time.perf_counter()
    answer = client.post("/recommend", json=body)
    milliseconds = 1e3 * (time.perf_counter() - began)
    told = answer.raise_for_status().json()
    if told["policy_version"] != 1 or set(told["warnings"]) - {"impression_not_logged"}:
        raise RuntimeError(f"not the policy's answer: {told}")
    return milliseconds


def _new_item(client: httpx.Client, n: int) -> float:
    """Milliseconds from a new item's PUT to an answer of the policy with this item."""
    began = time.perf_counter()
    client.put(f"/items/new-{n}", json={"text": f"New item {n}"}).raise_for_status()
    body = {"user_id": f"fresh-{n}", "k": 1, "candidate_item_ids": [f"new-{n}"]}
    told = client.post("/recommend", json=body).raise_for_status().json()
    milliseconds = 1e3 * (time.perf_counter() - began)
    shown = [(item["item_id"], item["propensity"]) for item in told["items"]]
    if shown != [(f"new-{n}", 1.0)] or told["policy_version"] != 1:
        raise RuntimeError(f"the new item does not come: {told}")
    return milliseconds


def _peak_mib(running: Program) -> int:
    """The most that was ever resident."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)
