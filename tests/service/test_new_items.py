"""A least share for new items: exact at every slot, whatever else rules, and logged as it was drawn."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from service.policy.sampling import Probs, propensities_where, sample_slate_where
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.variants import Arm
from service.serving.loader import LivePolicy, Loaded
from service.serving.new_items import NewItems
from service.serving.rules import Applied
from service.serving.slates import Candidates, build_slate, draw_all, plan_draws
from service.settings import Settings
from service.store.catalogue import Catalogue
from service.store.events import Impression
from service.store.keys import Keys
from service.store.properties import Column
from service.store.registry import Live
from tests.service.service_examples import (
    N_ITEMS,
    logged,
    make_settings,
    make_snapshot,
    problem_of,
    recommend,
    serving,
    shown,
)

NEW = ("new-0", "new-1", "new-2")
DAY_S = 86_400


def rule(share: float, within_days: float = 14) -> dict[str, Any]:
    return {"new_items": {"share": share, "within_days": within_days}}


def put_new(api: httpx.Client, *names: str) -> None:
    for name in names:
        api.put(f"/items/{name}", json={"text": f"The film {name}", "categories": ["Drama"]}).raise_for_status()


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda mass: sum(mass) > 1e-3),
    st.integers(0, 8),
    st.floats(0.01, 1),
)
def test_new_items_get_their_share_and_all_else_stays_in_proportion(
    mass: list[float], first: int, share: float
) -> None:
    probs = np.array(mass) / sum(mass)
    lifted = NewItems(share, first).lifted(probs, None)
    assert lifted.sum() == pytest.approx(1.0)
    assert not lifted[probs == 0].any(), "what is not possible stays so"
    new = float(probs[first:].sum())
    if new == 0 or new == pytest.approx(1) or new >= share:
        np.testing.assert_allclose(lifted, probs, atol=1e-9)
        return
    assert lifted[first:].sum() == pytest.approx(share)
    np.testing.assert_allclose(lifted[first:] * new, probs[first:] * share, atol=1e-12)
    np.testing.assert_allclose(lifted[:first] * (1 - new), probs[:first] * (1 - share), atol=1e-12)


def slot_probability(probs: Probs, above: tuple[int, ...], item: int, first: int, share: float) -> float:
    """By hand: of what the slots above leave, with no more than two of a parity."""
    gone = [n for n in range(len(probs)) if n in above or sum(1 for one in above if one % 2 == n % 2) >= 2]
    left: dict[int, float] = {n: p for n, p in enumerate(probs.tolist()) if n not in gone}
    total = math.fsum(left.values())
    new = math.fsum(p for n, p in left.items() if n >= first) / total
    own = left.get(item, 0.0) / total
    if 0 < new < share and new < 1:
        return own / new * share if item >= first else own / (1 - new) * (1 - share)
    return own


def test_slates_come_as_often_as_their_propensities_say() -> None:
    """All slates of three of six, with a limit: their probabilities sum to one, and draws follow them."""
    probs, first, share, k, n = np.array([0.4, 0.3, 0.15, 0.1, 0.03, 0.02]), 4, 0.4, 3, 30_000
    parity = Column()
    for place in range(6):
        parity.put(place, place % 2)
    applied = Applied(limits=((parity, 2),), new=NewItems(share, first))
    expected = {}
    for slate in itertools.permutations(range(6), k):
        each = [slot_probability(probs, slate[:slot], item, first, share) for slot, item in enumerate(slate)]
        if all(each):
            expected[slate] = math.prod(each)
            found = applied.propensities(probs, np.array(slate))
            np.testing.assert_allclose(found, each, rtol=1e-9)
    assert math.fsum(expected.values()) == pytest.approx(1.0)
    rng, counts = np.random.default_rng(3), Counter[tuple[int, ...]]()
    for _ in range(n):
        drawn, first_slot = applied.draw(probs, None, 6, k, rng)
        slate = tuple(drawn.items.tolist())
        counts[slate] += 1
        assert math.prod(drawn.propensities) == pytest.approx(expected[slate], rel=1e-9)
    assert first_slot[first:].sum() == pytest.approx(share)
    likely = [slate for slate, p in expected.items() if n * p >= 5]
    statistic = sum((counts[slate] - n * expected[slate]) ** 2 / (n * expected[slate]) for slate in likely)
    assert statistic < chi2.ppf(0.9999, len(likely) - 1)


def test_without_a_change_of_weights_it_is_as_ever() -> None:
    probs, rng = np.random.default_rng(0).dirichlet(np.ones(7)), np.random.default_rng(1)
    for _ in range(50):
        slate = sample_slate_where(probs, 4, rng, lambda _: None, lambda mass: 3 * mass)
        found = propensities_where(probs, slate.items, lambda _: None)
        np.testing.assert_allclose(slate.propensities, found, rtol=1e-9)


def test_the_share_holds_in_what_is_served_and_logged(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    everything: dict[str, Any] = {"k": N_ITEMS + 3, "repeat": "freely", "history": []}
    put_new(api, *NEW)
    plain = {item["item_id"]: item["score"] for item in recommend(api, "ann", **everything)["items"]}
    assert sum(plain[name] for name in NEW) < 0.5
    answer = recommend(api, "ann", **everything, rules=rule(0.5))
    scores = {item["item_id"]: item["score"] for item in answer["items"]}
    assert sum(scores[name] for name in NEW) == pytest.approx(0.5) and sum(scores.values()) == pytest.approx(1)
    left, n_new = dict(plain), 3
    impression = [event for event in logged(redis, settings) if isinstance(event, Impression)][-1]
    for item, logged_as in zip(answer["items"], impression.propensities, strict=True):
        total, new = sum(left.values()), sum(left.get(name, 0.0) for name in NEW)
        own, is_new = left.pop(item["item_id"]), item["item_id"] in NEW
        expected = own / total
        if n_new and new / total < 0.5 and new < total:
            expected = 0.5 * own / new if is_new else 0.5 * own / (total - new)
        n_new -= is_new
        assert item["propensity"] == pytest.approx(expected, rel=1e-4) == pytest.approx(logged_as, rel=1e-4)
    one = {name: recommend(api, "ann", **everything | {"k": 1}, rules=rule(1.0)) for name in range(9)}
    assert {shown(slate)[0] for slate in one.values()} <= set(NEW), "all of it"
    low = recommend(api, "ann", **everything, rules=rule(1e-6))["items"]
    assert {item["item_id"]: item["score"] for item in low} == pytest.approx(plain), "they have more than that already"


def test_beside_pins_boosts_limits_and_filters(api: httpx.Client) -> None:
    put_new(api, *NEW)
    pins = [{"slot": 1, "item_id": "film-4"}, {"slot": 2, "item_id": "new-0"}]
    rules = rule(1.0) | {"pins": pins, "at_most": [{"of": "categories", "n": 2}]}
    for user in range(10):
        slate = shown(recommend(api, f"u{user}", k=4, rules=rules))
        assert slate[1:3] == ["film-4", "new-0"] and slate[0] in ("new-1", "new-2")
        assert slate[3] not in NEW, "new-0, which is pinned, and the first are two of a kind"
    boosts = [{"where": {"categories": "Drama"}, "by": -10}]
    seen = recommend(api, "ann", k=33, repeat="freely", history=[], rules=rule(0.3) | {"boosts": boosts})
    assert sum(item["score"] for item in seen["items"] if item["item_id"] in NEW) == pytest.approx(0.3)
    none = recommend(api, "bob", k=3, rules=rule(1.0), filters={"categories": ["Western"]})
    assert len(none["items"]) == 3 and not set(shown(none)) & set(NEW), "where there are none, all is as ever"
    api.put("/placements/home", json={"k": 2, "rules": rule(1.0)}).raise_for_status()
    assert set(shown(recommend(api, "eve", placement="home"))) < set(NEW)


def test_when_items_came_is_known_to_every_process(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    hour = int(time.time() // 3600)

    def new_ones(api: httpx.Client, within_days: float) -> set[str]:
        """A share of all: only new items, then the others."""
        slates = [
            recommend(api, "ann", k=2, repeat="freely", history=[], rules=rule(1.0, within_days)) for _ in range(12)
        ]
        return {name for slate in slates for name in shown(slate)}

    with serving(settings) as api:
        assert len(new_ones(api, 365)) > 4, "those that the deployment began with are not new"
        put_new(api, *NEW)
        assert new_ones(api, 0.5) <= set(NEW)
        arrivals = redis.zrange(keys.item_arrivals, 0, -1, withscores=True)
        assert {int(score) for _, score in arrivals} >= {N_ITEMS} and len(arrivals) <= 2
        redis.delete(keys.item_arrivals)
        redis.zadd(keys.item_arrivals, {str(hour - 24 * 20): N_ITEMS, str(hour - 24 * 3): N_ITEMS + 1})
        put_new(api, "new-0")
        assert new_ones(api, 0.5) <= set(NEW), "put again it is no newer, and nothing is read anew"
    with serving(settings) as api:
        assert new_ones(api, 4) == {"new-1", "new-2"}, "another process, with other times"
        assert new_ones(api, 21) <= set(NEW)
        assert not new_ones(api, 2) <= set(NEW)
        api.delete("/items/new-2").raise_for_status()
        put_new(api, "new-2", "newest-0", "newest-1")
        assert new_ones(api, 2) == {"newest-0", "newest-1"}, "one that comes back is as old as it was"


def test_the_times_that_are_kept_are_few() -> None:
    arrivals = ((10, 3), (12, 5), (20, 9))
    catalogue = Catalogue(visible=np.ones(11, np.bool_), arrivals=arrivals)
    hours = [9, 10, 10.9, 11, 12, 13, 20, 20.5, 21]
    assert [catalogue.first_since(hour * 3600) for hour in hours] == [3, 3, 3, 5, 5, 9, 9, 9, 11]
    assert Catalogue(visible=np.ones(4, np.bool_)).first_since(0) == 4


@pytest.mark.parametrize("index_from", [500, 10**6])
def test_in_a_large_catalogue_new_items_are_candidates_too(redis_url: str, tmp_path: Path, index_from: int) -> None:
    """The control's policy chooses among a hundred of nine hundred, to which nothing brings what is new but a rule."""
    snapshot = make_snapshot(tmp_path / "snapshot", 900)
    changes: dict[str, Any] = {"candidates": 100, "index_from": index_from, "control_share": 1.0}
    settings = make_settings(redis_url, snapshot, tmp_path / "service", **changes)
    with serving(settings) as api:
        put_new(api, "new-0", "new-1")
        request: dict[str, Any] = {"k": 1, "repeat": "freely", "history": []}
        plain = [shown(recommend(api, "ann", **request))[0] for _ in range(20)]
        assert not set(plain) & {"new-0", "new-1"}
        propensities = {}
        for _ in range(60):
            (item,) = recommend(api, "ann", **request, rules=rule(0.5))["items"]
            propensities[item["item_id"]] = item["propensity"]
        assert propensities["new-0"] + propensities["new-1"] == pytest.approx(0.5)
        assert len(propensities) > 4 and sum(propensities.values()) < 1 + 1e-9
        (hidden,) = recommend(api, "ann", **request, rules=rule(1.0), exclude_item_ids=["new-1"])["items"]
        assert (hidden["item_id"], hidden["propensity"]) == ("new-0", 1.0)


def test_a_shadow_version_is_under_the_same_rule(settings: Settings) -> None:
    assert settings.snapshot is not None
    snapshot, known = load_snapshot(settings.snapshot), load_catalogue(settings.snapshot)
    policy = snapshot.serving_policy(known.embeddings)
    catalogue = Catalogue(
        ids=list(snapshot.item_ids),
        index={item: n for n, item in enumerate(snapshot.item_ids)},
        visible=np.ones(N_ITEMS, np.bool_),
    )
    live = LivePolicy(
        snapshot, policy, catalogue, live=Live(1, "auto", 0.0), shadow=Loaded(snapshot, policy, catalogue)
    )
    chosen = Candidates(catalogue.visible, (), None, None, Applied(new=NewItems(0.9, N_ITEMS - 3)), ())
    rng, own = np.random.default_rng(0), np.random.default_rng(1)
    for _ in range(20):
        drawn = draw_all(plan_draws(live, catalogue, chosen, (), Arm.ADAPTIVE, 5, rng, own))
        impression = build_slate(live, catalogue, chosen, (), drawn, user="u:ann", arm=Arm.ADAPTIVE, k=5).impression
        assert impression is not None and impression.shadow is not None
        assert impression.shadow.propensities == pytest.approx(impression.propensities), "it is the same policy"


@pytest.mark.parametrize(
    ("new_items", "field"),
    [
        ({"share": 0, "within_days": 7}, "rules.new_items.share"),
        ({"share": 1.1, "within_days": 7}, "rules.new_items.share"),
        ({"share": 0.2}, "rules.new_items.within_days"),
        ({"share": 0.2, "within_days": 400}, "rules.new_items.within_days"),
        ({"share": 0.2, "within_days": 7, "n": 3}, "rules.new_items.n"),
    ],
)
def test_refusals_name_the_field(api: httpx.Client, new_items: dict[str, Any], field: str) -> None:
    body = {"user_id": "ann", "rules": {"new_items": new_items}}
    assert problem_of(api.post("/recommend", json=body), 422)["errors"][0]["field"] == field
    assert problem_of(api.put("/placements/p", json={"rules": body["rules"]}), 422)["errors"][0]["field"] == field
