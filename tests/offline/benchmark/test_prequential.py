"""Events are ranked before they are learned, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from offline.benchmark.baselines.item_knn import ItemKnn, KnnConfig
from offline.benchmark.metrics import Scores
from offline.benchmark.prequential import Events, evaluate, evaluate_warm_start, events_of
from tests.offline.benchmark.benchmark_examples import TOY, Oracle, two_camps

N_ITEMS = 20


def test_events_stand_in_order_of_time() -> None:
    interactions = two_camps()
    events = events_of(interactions, TOY, seed=0)
    order = np.argsort(interactions.time)
    assert events.items.tolist() == interactions.item[order].tolist()
    assert events.users.tolist() == interactions.user[order].tolist()


def test_only_likes_are_events() -> None:
    interactions = two_camps()
    liked = interactions.liked.copy()
    liked[::3] = False
    assert len(events_of(replace(interactions, liked=liked), TOY, seed=0).users) == liked.sum()


def test_interleaving_keeps_each_users_order() -> None:
    interactions = two_camps()
    source = replace(TOY, order="order")
    events = events_of(interactions, source, seed=0)
    for user in range(40):
        own = np.flatnonzero(interactions.user == user)
        wanted = interactions.item[own[np.argsort(interactions.time[own])]]
        assert events.items[events.users == user].tolist() == wanted.tolist()
    assert np.abs(np.diff(events.users)).mean() > 5, "users take turns"
    others = events_of(interactions, source, seed=1)
    assert events.users.tolist() != others.users.tolist()


def test_no_event_is_learned_before_it_is_ranked() -> None:
    events = events_of(two_camps(), TOY, seed=0)
    oracle = Oracle(N_ITEMS)
    evaluate(oracle, events, N_ITEMS, block=7)
    assert [kind for kind, _ in oracle.told] == ["rank", "learn"] * 46
    learned = [item for kind, items in oracle.told if kind == "learn" for item in items]
    assert learned == events.items.tolist()
    # When block b was ranked, only blocks before it had been learned: each rank call stands before its own learn call.
    assert len(oracle.asked) == len(events.users)


def test_histories_are_what_happened_before() -> None:
    events = Events(np.array([0, 1, 0, 0, 1]), np.array([3, 4, 5, 6, 7]), np.array([10, 10, 11, 11, 12]))
    oracle = Oracle(N_ITEMS)
    ranked = evaluate(oracle, events, N_ITEMS, block=2, warm_up=0.0)
    # The likes of second 11 do not know of each other, even across blocks.
    assert oracle.asked == [(), (), (3,), (3,), (4,)]
    assert ranked.is_cold.tolist() == [True, True, False, False, False]


def test_a_learner_that_cannot_know_is_at_chance() -> None:
    """Permuted futures: what item-kNN knows of a block before it was ranked would show here."""
    rng = np.random.default_rng(0)
    n = 6000
    # Every user likes 6 random items: nothing can be learned, but memorising the block would rank its items first.
    users = np.repeat(np.arange(n // 6), 6)
    items = np.concatenate([rng.choice(N_ITEMS, 6, replace=False) for _ in range(n // 6)])
    ranked = evaluate(ItemKnn(N_ITEMS, KnnConfig()), Events(users, items, np.arange(n)), N_ITEMS)
    known = ~ranked.is_cold
    left = N_ITEMS - np.tile(np.arange(6), n // 6)[-len(known) :]
    by_chance = np.mean([np.mean(1 / np.arange(1, n_left + 1)) for n_left in left[known]])
    assert ranked.metrics["mrr"][known].mean() == pytest.approx(by_chance, abs=0.02)


def test_a_learner_that_can_know_gets_better() -> None:
    events = events_of(two_camps(n_users=200), TOY, seed=0)
    found = {
        warm_up: evaluate(ItemKnn(N_ITEMS, KnnConfig()), events, N_ITEMS, warm_up=warm_up).metrics["ndcg"]
        for warm_up in (0.0, 0.5)
    }
    assert len(found[0.0]) == 1600 and len(found[0.5]) == 800
    assert found[0.0][:200].mean() + 0.1 < found[0.5].mean()


def test_what_was_liked_is_no_candidate() -> None:
    class Constant(Oracle):
        def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
            return np.tile(np.arange(N_ITEMS, 0, -1.0), (len(histories), 1))

    events = Events(np.zeros(3, np.int64), np.array([0, 1, 2]), np.arange(3))
    ranked = evaluate(Constant(N_ITEMS), events, N_ITEMS, warm_up=0.0)
    assert ranked.metrics["mrr"].tolist() == [1.0, 1.0, 1.0]


def test_likes_of_a_log_without_an_order_come_in_a_random_one() -> None:
    source = replace(TOY, order="none")
    first, again, other = (events_of(two_camps(), source, seed) for seed in (0, 0, 1))
    assert first.items.tolist() == again.items.tolist() != other.items.tolist()
    assert first.times.tolist() == list(range(len(first.users)))  # nothing happened at once
    assert sorted(first.items.tolist()) == sorted(other.items.tolist())


def test_a_warm_start_learns_the_first_half_and_no_more() -> None:
    events = Events(np.array([0, 1, 0, 1]), np.array([2, 2, 3, 1]), np.arange(4))
    fitted: list[Events] = []
    asked: list[list[tuple[int, ...]]] = []

    class Fixed:
        def rank(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
            asked.append([tuple(history) for history in histories])
            return np.tile([4.0, 3.0, 2.0, 1.0], (len(histories), 1))

    def fit(first: Events) -> Fixed:
        fitted.append(first)
        return Fixed()

    ranked = evaluate_warm_start(fit, events, 4)
    assert [first.items.tolist() for first in fitted] == [[2, 2]]
    assert asked == [[(2,), (2,)]]
    # Of items 0, 1 and 3, item 3 comes third and item 1 second.
    assert ranked.metrics["mrr"].tolist() == [1 / 3, 1 / 2]
    assert ranked.users.tolist() == [0, 1] and not ranked.is_cold.any()
