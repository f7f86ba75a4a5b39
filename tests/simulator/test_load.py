"""Runs of synthetic users against a fake service in virtual time: latencies, sessions and bounds are exact."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest

from simulator.errors import SimulatorError
from simulator.load.load import Load, LoadConfig, SessionRecord
from simulator.world.environment import EnvironmentConfig, SessionBatch, World
from tests.simulator.fake_service import FakeService
from tests.simulator.virtual_time import run
from tests.simulator.world_examples import make_world

WORLD = make_world(EnvironmentConfig(slate_size=3, max_turn=4, leave_quantile=0.01))
ITEM_IDS = tuple(f"item-{n}" for n in range(WORLD.n_items))
ONE_TURN = make_world(EnvironmentConfig(slate_size=3, max_turn=1))


def go(service: FakeService, config: LoadConfig, world: World = WORLD, connections: int = 1_000) -> Load:
    async def inside() -> Load:
        client = service.client(connections)
        load = Load(world, ITEM_IDS, client, config)
        async with client:
            await load.run(asyncio.Event())
        return load

    return run(inside())


def test_sessions_follow_the_rules_of_the_world() -> None:
    """Each record replayed through SessionBatch with the same luck gives the same responses and the same end."""
    service = FakeService(ITEM_IDS)
    load = go(service, LoadConfig(sessions=20, concurrency=4, seed=3))
    assert sorted(record.n for record in load.records) == list(range(20))
    for record in load.records:
        rng = np.random.default_rng([3, 1, record.n])
        batch = SessionBatch(WORLD, rng)
        batch.reset(rng.integers(WORLD.n_users, size=1))
        assert batch.users[0] == record.user
        for slate, reward in zip(record.shown, record.rewards, strict=True):
            assert not batch.done[0]
            assert batch.show(np.array([slate]))[0].sum() == reward
        assert batch.done[0] and record.outcome == ("bored" if batch.left[0] else "finished")
        assert [ITEM_IDS[item] for slate in record.shown for item in slate] == service.seen[f"sim-3-{record.n}"]
        assert record.arm == ("control" if record.n % 4 == 0 else "adaptive")
        assert len(record.recommend_ms) == len(record.versions) == len(record.shown)


def test_where_tastes_drift_a_visit_has_those_of_its_number() -> None:
    world = make_world(replace(WORLD.config, drift_period=40))  # every visit in a step of its own
    load = go(FakeService(ITEM_IDS), LoadConfig(sessions=20, concurrency=4, seed=3), world)
    for record in load.records:
        rng = np.random.default_rng([3, 1, record.n])
        batch = SessionBatch(world, rng)
        batch.reset(rng.integers(world.n_users, size=1), first=record.n)
        assert [batch.show(np.array([slate]))[0].sum() for slate in record.shown] == record.rewards


def test_only_positive_responses_are_sent_one_array_a_turn() -> None:
    service = FakeService(ITEM_IDS)
    load = go(service, LoadConfig(sessions=30, concurrency=4))
    ids = [event["event_id"] for event in service.events]
    assert len(set(ids)) == len(ids) == sum(record.reward for record in load.records) > 0
    assert {event["type"] for event in service.events} == {"click"}
    assert all(event["item_id"] in service.seen[event["user_id"]] for event in service.events)
    turns_with_reward = sum(reward > 0 for record in load.records for reward in record.rewards)
    assert sum(len(record.feedback_ms) for record in load.records) == turns_with_reward


def test_what_a_user_does_does_not_depend_on_who_else_is_there() -> None:
    def told(concurrency: int) -> list[tuple[int, list[list[int]], list[int]]]:
        load = go(FakeService(ITEM_IDS), LoadConfig(sessions=12, concurrency=concurrency))
        return sorted((r.user, r.shown, r.rewards) for r in load.records)

    assert told(1) == told(5)


def test_open_loop_latency_counts_from_the_intended_start() -> None:
    """A server that takes one request a time, 1 s each, and gets two users a second: Lindley's recursion."""
    load = go(FakeService(ITEM_IDS, service_s=1.0), LoadConfig(sessions=40, rate=2.0, think_s=1e6), ONE_TURN)
    free = 0.0
    arrivals = np.cumsum([np.random.default_rng([0, 0]).exponential(0.5, 40)])
    served = {record.n: record for record in load.records}
    line: list[tuple[float, int, str]] = [(at, n, "recommend_ms") for n, at in enumerate(arrivals)]
    while line:
        line.sort()
        at, n, kind = line.pop(0)
        free = max(free, at) + 1.0
        assert getattr(served[n], kind)[0] == pytest.approx((free - at) * 1e3)
        if kind == "recommend_ms" and served[n].reward:
            line.append((free, n, "feedback_ms"))
    assert [served[n].start_s for n in range(40)] == pytest.approx(arrivals)
    assert max(r.recommend_ms[0] for r in load.records) > 10_000


def test_waiting_for_a_connection_is_latency() -> None:
    """Two at once over one connection: the second call waits for the first."""
    load = go(FakeService(ITEM_IDS, service_s=1.0), LoadConfig(sessions=2, concurrency=2), ONE_TURN, connections=1)
    assert sorted(record.recommend_ms[0] for record in load.records) == pytest.approx([1_000.0, 2_000.0])


def test_think_time_is_no_latency() -> None:
    load = go(FakeService(ITEM_IDS), LoadConfig(sessions=5, concurrency=1, think_s=100.0))
    assert load.seconds > 100.0
    assert max(ms for record in load.records for ms in record.recommend_ms) == pytest.approx(0.0)


def test_no_user_comes_after_the_time_is_over_and_those_inside_may_finish() -> None:
    load = go(FakeService(ITEM_IDS, service_s=0.5), LoadConfig(max_seconds=10.0, concurrency=1))
    assert max(record.start_s for record in load.records) < 10.0 <= load.seconds <= 15.0
    assert all(record.complete for record in load.records)


def test_who_is_still_inside_after_the_grace_is_cut() -> None:
    load = go(FakeService(ITEM_IDS), LoadConfig(max_seconds=10.0, concurrency=3, think_s=1e9))
    assert [record.outcome for record in load.records] == ["cut"] * 3
    assert load.seconds == pytest.approx(15.0)


def test_open_loop_stops_in_the_middle_of_a_pause() -> None:
    load = go(FakeService(ITEM_IDS), LoadConfig(max_seconds=10.0, rate=1e-6))
    assert load.records == [] and load.seconds == pytest.approx(10.0)


def test_stop_ends_the_run() -> None:
    async def inside() -> list[SessionRecord]:
        client = FakeService(ITEM_IDS, 1.0).client()
        load = Load(WORLD, ITEM_IDS, client, LoadConfig(sessions=10_000))
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(20.0, stop.set)
        async with client:
            await load.run(stop)
        assert load.seconds <= 25.0
        return load.records

    assert 0 < len(run(inside())) < 100


def test_a_session_that_cannot_go_on_is_failed_and_its_time_is_kept() -> None:
    service = FakeService(ITEM_IDS, service_s=1.0)
    service.broken = [httpx.Response(500)]
    load = go(service, LoadConfig(sessions=2, concurrency=1))
    failed, fine = load.records
    assert failed.outcome == "failed" and failed.warnings == ["500"] and failed.recommend_ms == pytest.approx([1_000.0])
    assert fine.complete


def test_items_of_others_are_no_items_but_a_strange_slate_is_an_error() -> None:
    service = FakeService(("stranger", *ITEM_IDS))
    load = go(service, LoadConfig(sessions=1))
    assert load.records[0].shown[0] == [-1, 0, 1]
    with pytest.raises(SimulatorError, match=r"'other-0'.*--dataset"):
        go(FakeService([f"other-{n}" for n in range(9)]), LoadConfig(sessions=5))


def test_a_seed_visits_a_service_once() -> None:
    service = FakeService(ITEM_IDS)
    service.known_users = {"sim-7-0"}
    with pytest.raises(SimulatorError, match="--seed 7"):
        go(service, LoadConfig(sessions=1, seed=7))
