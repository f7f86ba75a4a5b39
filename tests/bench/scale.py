"""How the costs grow: a learner's step, a request's scores, and Redis's memory for a million users."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import redis as syncredis
import torch

from service.policy.adaptive import Query
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.exact_policy import ExactPolicy
from service.policy.replay import Replay
from service.policy.types import Interaction, Response, Transition, pack_states
from service.policy.variants import ServingConfig
from service.serving.slates import Draw, draw_all
from service.settings import Settings
from service.store import event_log, events
from service.store.events import Feedback, Impression
from service.store.worker_report import decode_report
from tests.bench.serving import OTHER_CORE
from tests.bench.stage import (
    HISTORY,
    KEYS,
    SHOWN,
    Stage,
    item_id,
    load_users,
    make_networks,
    make_snapshot,
    popular_rows,
    redis_server,
)
from tests.bench.traffic import percentiles

Record = dict[str, Any]
SLOTS = 10
N_SLATES = 12_000


def random_history(rng: np.random.Generator, n_items: int, length: int) -> tuple[Interaction, ...]:
    """Distinct items by Zipf's law with random responses."""
    rows = list(dict.fromkeys(popular_rows(rng, n_items, (6 * length,)).tolist()))[:length]
    kinds = (Response.POSITIVE, Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)
    return tuple(Interaction(row, kinds[kind]) for row, kind in zip(rows, rng.integers(4, size=length), strict=False))


def worker(folder: Path) -> Record:
    """Events a second of the worker's process on one core, all that it does included, on a log that waits for it."""
    n_items = 10_000
    snapshot = make_snapshot(folder / "snapshot", n_items)
    rng = np.random.default_rng(6)
    with redis_server(folder / "redis", OTHER_CORE) as url, syncredis.from_url(url) as redis:
        on, keys = Stage(folder, url, snapshot, {"IALP_REWARD_WINDOW_S": "0.05"}), KEYS
        with on.service("api", 0):  # makes the snapshot version 1
            pass
        n_events = 0
        for start in range(0, N_SLATES, 500):
            pipe = redis.pipeline(transaction=False)
            for n in range(start, start + 500):
                rows = list(dict.fromkeys(popular_rows(rng, n_items, (200,)).tolist()))[: HISTORY + SLOTS]
                shown = tuple(item_id(r) for r in rows[HISTORY:])
                history = tuple(
                    (item_id(r), float(x)) for r, x in zip(rows, rng.integers(-1, 2, HISTORY), strict=False)
                )
                impression = Impression(
                    recommendation_id=f"r{n}",
                    user=f"u:u{n % 3_000}",
                    arm="adaptive",
                    policy_version=1,
                    history=history,
                    items=shown,
                    propensities=(0.01,) * len(shown),
                    candidate_hash="",
                    masked=tuple(item_id(r) for r in rows[:HISTORY]),
                )
                pipe.xadd(keys.events, {events.FIELD: events.encode(impression)})
                for slot in np.flatnonzero(rng.random(len(shown)) < 0.1):
                    click = Feedback(f"e{n}-{slot}", f"u:u{n % 3_000}", shown[slot], 1.0, f"r{n}", "click")
                    pipe.xadd(keys.events, {events.FIELD: events.encode(click)})
                    n_events += 1
                n_events += 1
            pipe.execute()
        last = event_log.order(redis.xrevrange(keys.events, count=1)[0][0].decode())
        with on.service("worker", 0) as running:
            began = None
            while True:
                data = redis.get(keys.worker)
                report = decode_report(data) if data else None
                if report is not None and began is None and sum(report.events.values()) > 0:
                    began, before, cpu = time.monotonic(), sum(report.events.values()), running.cpu_s
                if report is not None and event_log.order(report.cursor) >= last:
                    break
                if running.process.poll() is not None:
                    raise RuntimeError((folder / "worker.log").read_text()[-2000:])
                time.sleep(0.02)
            assert began is not None and report is not None
            seconds, cpu_s = time.monotonic() - began, running.cpu_s - cpu
    return {
        "events": n_events,
        "per_second": (n_events - before) / seconds,
        "cpu_us_per_event": 1e6 * cpu_s / (n_events - before),
        "slates": N_SLATES,
        "versions": report.version,
    }


def _update_seconds(n_items: int, length: int, repeats: int = 5) -> float:
    """Median seconds of one update by 32 transitions of 10 slots, the gradient steps that they make due included."""
    pretrained, learned = make_networks(n_items)
    rng = np.random.default_rng(7)
    learner = Boltzmann(learned.requires_grad_(True), BoltzmannConfig(), pretrained.requires_grad_(False))
    replay = Replay(5_000, 30, SLOTS)
    generator = torch.Generator().manual_seed(0)

    def transition() -> Transition:
        shown = tuple(rng.choice(n_items, SLOTS, replace=False).tolist())
        rewards = tuple(map(float, rng.random(SLOTS) < 0.1))
        history = random_history(rng, n_items, length)
        return Transition(history, shown, rewards, (0.1,) * SLOTS, 0.5, history)

    times = []
    for _ in range(repeats + 1):
        for _ in range(32):
            replay.add(transition())
        began = time.perf_counter()
        learner.update(replay, 32, generator)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def learner_cost(_: Path) -> Record:
    """Seconds of an update by catalogue and by history, with the exponent of a power law through them."""
    by_items = {n: _update_seconds(n, HISTORY, 2 if n > 100_000 else 5) for n in (1_000, 10_000, 100_000, 1_000_000)}
    by_history = {n: _update_seconds(10_000, n) for n in (4, 8, 15, 30)}
    return {"by_items": by_items, "by_history": by_history, "slates": 32}


def _request_times(n_items: int, n: int) -> Record:
    pretrained, learned = make_networks(n_items)
    exact_policy = ExactPolicy(pretrained, learned, learned, ServingConfig())
    policy, index_s = exact_policy.serving, 0.0
    if n_items >= Settings().index_from:
        began = time.perf_counter()
        policy = policy.indexed()
        index_s = time.perf_counter() - began
    rng = np.random.default_rng(8)
    draws, together = [], []
    mass: list[tuple[float, float]] = []  # of the best and of all

    def wish() -> Draw:
        history = random_history(rng, n_items, HISTORY + 10)
        available = np.ones(n_items, np.bool_)
        available[[past.item for past in history]] = False
        return Draw(policy, Query(history, available), SLOTS, rng)

    draw_all([wish()])
    for _ in range(n):
        wanted = wish()
        began = time.perf_counter()
        drawn = draw_all([wanted])[0]
        draws.append(1e3 * (time.perf_counter() - began))
        if n_items > 8 * policy.config.candidates and len(mass) < 20:
            states = pack_states([wanted.query.history], policy.max_history)
            exact = exact_policy.distributions(states, wanted.query.available[np.newaxis]).probs[0]
            top = np.argpartition(exact, -SLOTS)[-SLOTS:]
            mine = drawn.distribution.of_all(n_items).probs
            mass.append((exact[top][mine[top] > 0].sum() / exact[top].sum(), exact[mine > 0].sum()))
    for _ in range(max(2, n // 20)):
        wishes = [wish() for _ in range(16)]
        began = time.perf_counter()
        draw_all(wishes)
        together.append(1e3 * (time.perf_counter() - began) / 16)
    top_mass, all_mass = (float(np.mean(part)) for part in zip(*mass, strict=True)) if mass else (1.0, 1.0)
    return {
        "index_s": round(index_s, 1),
        "one_ms": percentiles(draws),
        "of_16_ms": round(median(together), 3),
        "top_mass": top_mass,
        "mass": all_mass,
    }


def request_cost(_: Path) -> Record:
    """A slate from a state, by catalogue: one request alone, and each of 16 that come together."""
    counts = {1_000: 200, 10_000: 200, 100_000: 100, 1_000_000: 200}
    return {"by_items": {n_items: _request_times(n_items, n) for n_items, n in counts.items()}}


def million_users(folder: Path) -> Record:
    """Redis's memory for users with histories of 20 and 30 seen items."""
    n_users, n_items = 1_000_000, 10_000
    with redis_server(folder / "redis", OTHER_CORE, durable=False) as url, syncredis.from_url(url) as redis:
        before = redis.info("memory")["used_memory"]
        began = time.monotonic()
        load_users(redis, n_users, n_items)
        seconds = time.monotonic() - began
        used = redis.info("memory")["used_memory"] - before
    return {"users": n_users, "history": HISTORY, "seen": SHOWN, "gib": used / 2**30, "load_s": round(seconds, 1)}
