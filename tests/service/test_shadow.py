"""The shadow version: it computes and logs what it would show, serves nothing, and its value is estimated."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import redis as syncredis

from service.policy.off_policy import effective_sample_size, estimate, snips
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.variants import Arm
from service.serving.loader import LivePolicy, Loaded
from service.serving.slates import Candidates, build_slate, draw_all, plan_draws
from service.settings import Settings
from service.store.catalogue import Catalogue
from service.store.events import Impression, Shadow
from service.store.registry import Gate, Live
from service.worker.shadow import ShadowTotals, estimated
from tests.service.service_examples import (
    N_ITEMS,
    learning_settings,
    logged,
    problem_of,
    recommend,
    report_of,
    serving,
    shown,
    talk,
    until,
    working,
)
from tests.service.test_policies import LIKES, publish


def impressions(redis: syncredis.Redis, settings: Settings) -> list[Impression]:
    return [event for event in logged(redis, settings) if isinstance(event, Impression)]


def until_shadow(client: httpx.Client, redis: syncredis.Redis, settings: Settings, version: int | None) -> None:
    def follows() -> bool:
        recommend(client, "probe")
        shadow = impressions(redis, settings)[-1].shadow
        return (shadow.version if shadow else None) == version

    until(follows, f"shadow version {version}")


def test_a_shadow_version_serves_nothing_and_logs_what_it_would(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    publish(redis, settings, 2)
    until(lambda: recommend(api, "ann")["policy_version"] == 2, "version 2")
    publish(redis, settings, 3, Gate(passed=False, reasons=("kl",)))
    made = api.post("/policies/3:shadow").json()
    assert made == {"live_version": 2, "mode": "held", "shadow_version": 3}
    until_shadow(api, redis, settings, 3)
    assert api.get("/policies").json()["shadow_version"] == 3
    slates = [recommend(api, f"user-{n}", k=3) for n in range(40)]
    assert {slate["policy_version"] for slate in slates} == {2}
    for slate, impression in zip(slates, impressions(redis, settings)[-40:], strict=True):
        assert impression.shadow is not None
        own, would = impression.shadow.items, impression.shadow.propensities
        assert own[0] == LIKES[3], "version 3 likes little else"
        assert len(own) == len(would) == 3 and all(0 <= p <= 1 for p in would)
        if slate["arm"] == "adaptive":
            assert shown(slate)[0] == LIKES[2] and would[0] < 1e-6


def test_what_is_shown_is_the_same_with_and_without_one(snapshot_folder: Path) -> None:
    snapshot, texts = load_snapshot(snapshot_folder), load_catalogue(snapshot_folder).embeddings
    policy = snapshot.serving_policy(texts)
    catalogue = Catalogue(ids=list(snapshot.item_ids), index={item: n for n, item in enumerate(snapshot.item_ids)})
    everything = Candidates(np.ones(N_ITEMS, np.bool_), (), None, None, None, ())
    drawn = []
    for shadow in (None, Loaded(snapshot, policy, catalogue)):
        live = LivePolicy(snapshot, policy, catalogue, live=Live(1, "auto", 0.0), shadow=shadow)
        rng, own = np.random.default_rng(3), np.random.default_rng(3)
        wanted = [
            wish for _ in range(9) for wish in plan_draws(live, catalogue, everything, (), Arm.ADAPTIVE, 5, rng, own)
        ]
        together, each = draw_all(wanted), len(wanted) // 9
        slates = [
            build_slate(live, catalogue, everything, (), together[n : n + each], user="u:ann", arm=Arm.ADAPTIVE, k=5)
            for n in range(0, len(together), each)
        ]
        drawn.append([[item.item_id for item in slate.items] for slate in slates])
        impression = slates[0].impression
        assert impression is not None and (impression.shadow is None) == (shadow is None)
        if impression.shadow is not None:
            assert impression.shadow.propensities == pytest.approx(impression.propensities), "it is the same policy"
    assert drawn[0] == drawn[1]


def test_new_versions_become_the_shadow_version_until_one_is_activated(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    api.post("/policies/1:shadow")
    assert not publish(redis, settings, 2) and not publish(redis, settings, 3)
    told = api.get("/policies").json()
    assert (told["live_version"], told["mode"], told["shadow_version"]) == (1, "held", 3)
    assert api.post("/policies:freeze").json()["shadow_version"] == 3, "the kill switch leaves it"
    assert api.post("/policies/3:activate").json() == {"live_version": 3, "mode": "auto", "shadow_version": None}
    until_shadow(api, redis, settings, None)
    assert publish(redis, settings, 4), "and the worker's next version serves again"


def test_what_cannot_be_a_shadow_version(api: httpx.Client) -> None:
    assert problem_of(api.post("/policies/9:shadow"), 404)["code"] == "unknown_version"


def test_its_value_is_estimated_as_the_gate_would(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings, publish_every=10**9)
    with serving(settings) as client:
        publish(redis, settings, 2)
        until(lambda: recommend(client, "ann")["policy_version"] == 2, "version 2")
        client.post("/policies/1:shadow")
        until_shadow(client, redis, settings, 1)
        with working(settings):
            talk(client, 60)
            until(lambda: report_of(redis, settings).closed > 60, "closed slates", lambda: talk(client, 1))
            told = client.get("/evaluation").json()["shadow"]
    assert told["version"] == 1 and told["impressions"] > 40
    assert told["low"] < told["value"] < told["high"] and 0 < told["ess"] <= 3 * told["impressions"]


def test_sums_give_what_the_rows_give() -> None:
    rng = np.random.default_rng(0)
    totals = ShadowTotals(4)
    rewards, ratios, slates = [], [], []
    for n in range(50):
        k = int(rng.integers(1, 4))
        served, would, reward = rng.uniform(0.05, 1, k), rng.uniform(0, 1, k), rng.binomial(1, 0.4, k).astype(float)
        items = tuple(f"i{j}" for j in range(k))
        shadow = Shadow(4, ("i0",), tuple(would))
        totals.add(Impression(f"r{n}", "u", "adaptive", 1, (), items, tuple(served), "", shadow=shadow), tuple(reward))
        rewards.append(reward)
        ratios.append(would / served)
        slates.append(np.full(k, n))
    ratio = np.concatenate(ratios)
    expected = estimate(snips(np.concatenate(rewards), ratio), np.concatenate(slates))
    told = estimated(totals)
    ess = effective_sample_size(ratio)
    assert told.ess == pytest.approx(ess)
    assert (told.value, told.low, told.high) == pytest.approx(
        (expected.value, expected.low - 3 / ess, expected.high + 3 / ess)
    )
    assert (told.impressions, told.agreement) == (50, 1.0)


def test_nothing_is_told_of_too_little() -> None:
    assert estimated(ShadowTotals(2)).value is None
