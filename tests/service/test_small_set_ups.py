"""Ordinary small deployments as their users have them: a real API, a real worker, real time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.settings import Settings
from tests.service.personalizer_examples import rank, reward
from tests.service.service_examples import (
    make_settings,
    make_snapshot,
    recommend,
    report_of,
    respond,
    serving,
    until,
    working,
)

pytestmark = pytest.mark.exclusive

BANNERS = ["film-7", "film-700", "film-1200"]
GOOD = "film-700"
BLOCK = 50


@pytest.fixture(scope="module")
def many_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("many") / "snapshot", n_items=1_300)


@pytest.fixture
def shop(redis_url: str, many_films: Path, tmp_path: Path) -> Settings:
    """As it comes, but for a reward window that is over soon."""
    changes = {"control_share": 0.1, "reward_window_s": 0.3, "recommend_redis_timeout_s": 30.0}
    return make_settings(redis_url, many_films, tmp_path, **changes)


def catch_up(client: httpx.Client, redis: syncredis.Redis, settings: Settings, n: int, ids: Iterator[int]) -> None:
    """Wait until `n` slates have closed; time goes on with what comes into the log."""

    def closed() -> bool:
        respond(client, {"event_id": f"tick-{next(ids)}", "user_id": "clock", "item_id": "film-1", "type": "skip"})
        return report_of(redis, settings).closed >= n

    until(closed, "slates to close")


def likelihood(client: httpx.Client) -> float:
    """Of the good banner, where only banners may be shown, for somebody new."""
    asked = {"k": 1, "candidate_item_ids": BANNERS, "item_ids": [GOOD], "arm": "adaptive"}
    answer = client.post("/preview", json=asked)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["items"][0]["probability"])


@pytest.mark.parametrize("way", ["recommend", "rank"])
def test_three_banners_of_which_one_is_always_rewarded(shop: Settings, redis: syncredis.Redis, way: str) -> None:
    """trials B: 1,550 events, every version refused. Within 300 it has 90 % and more."""
    ids = itertools.count()
    with working(shop), serving(shop) as client:
        for block in range(300 // BLOCK):
            for n in range(block * BLOCK, (block + 1) * BLOCK):
                if way == "rank":
                    shown = rank(client, *BANNERS, eventId=f"event-{n}")["rewardActionId"]
                    if shown == GOOD:
                        assert reward(client, f"event-{n}") == 204
                    continue
                slate = recommend(client, f"user-{n}", k=1, candidate_item_ids=BANNERS)
                if slate["items"][0]["item_id"] == GOOD:
                    about = {"recommendation_id": slate["recommendation_id"], "item_id": GOOD, "user_id": f"user-{n}"}
                    respond(client, {"event_id": f"e-{n}", "type": "click", **about})
            catch_up(client, redis, shop, (block + 1) * BLOCK, ids)
        until(lambda: likelihood(client) >= 0.9, "the good banner")
        told = client.get("/policies").json()["policies"]
        assert sum(not one["gate_passed"] for one in told) <= 1, "of versions that are good none is refused"
        if way == "rank":
            ranked = {one["id"]: one["probability"] for one in rank(client, *BANNERS, eventId="last")["ranking"]}
            assert ranked[GOOD] >= 0.9


def test_a_new_action_of_rank_is_tried(shop: Settings, redis: syncredis.Redis) -> None:
    """trials E: a new action had a probability of 7e-5."""
    ids = itertools.count()
    with working(shop), serving(shop) as client:
        for n in range(200):
            if rank(client, *BANNERS, eventId=f"event-{n}")["rewardActionId"] == GOOD:
                reward(client, f"event-{n}")
        catch_up(client, redis, shop, 200, ids)
        until(lambda: recommend(client, "ann", k=1)["policy_version"] > 1, "a version that has learned")
        shown = [rank(client, *BANNERS, "a-new-offer", eventId=f"later-{n}")["rewardActionId"] for n in range(150)]
        assert shown.count("a-new-offer") >= 2, "a twentieth of the adaptive arm's"
        assert shown.count(GOOD) > 75
