"""Splits: nothing that is held out is in a history, and nobody who is judged is in a log that methods are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from offline.benchmark import heldout
from offline.benchmark.data import Ints, UserLog, user_logs
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Ranker
from offline.benchmark.split import FOLDS, folds_of_users, split_user, split_users, unbiased_cases, without_random
from offline.datasets import Interactions
from tests.offline.benchmark.benchmark_examples import TOY, Oracle, log_of, two_camps


def test_a_cut_parts_the_past_from_the_future() -> None:
    logs = user_logs(two_camps(), TOY, seed=0)
    cases = split_users(logs, TOY, seed=0)
    assert len(cases) == 40
    for case in cases:
        log = logs[case.user]
        at = {int(item): place for place, item in enumerate(log.items)}
        assert len(case.likes) == 3 and len(case.held_out) == 2
        assert max(at[item] for item in case.likes) < min(at[item] for item in case.held_out)
        assert list(case.held_out) == sorted(case.held_out, key=at.__getitem__)
        assert set(case.before.tolist()) == {i for i, place in at.items() if place < at[case.held_out[0]]}
        assert not {item for item, _ in case.answers} & set(case.held_out)
        assert set(case.likes) <= set(case.before.tolist())
    firsts = {logs[case.user].items.tolist().index(case.held_out[0]) for case in cases}
    assert firsts == {3, 4, 5, 6}, "people are met early and late"


def test_what_is_held_out_changes_no_history() -> None:
    """Permuting a user's future leaves all that a method is given as it was."""
    logs = list(user_logs(two_camps(), TOY, seed=0))
    for case in split_users(logs, TOY, seed=0):
        log = logs[case.user]
        cut = len(case.before)
        changed = log._replace(items=np.concatenate([log.items[:cut], log.items[cut:][::-1]]))
        again = split_user(case.user, changed, TOY, seed=0)
        assert (again.likes, again.answers, again.before.tolist()) == (case.likes, case.answers, case.before.tolist())


def test_what_happened_at_once_is_not_parted() -> None:
    log = log_of(range(12), times=[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    for user in range(30):
        case = split_user(user, log, TOY, seed=0)
        assert case.held_out[0] in (4, 8)
    at_once = log_of(range(6), times=[0] * 6)
    assert len(split_user(0, at_once, TOY, seed=0).likes) == 3, "it cannot always be"


def test_dislikes_are_answers_and_other_ratings_are_not() -> None:
    values = np.array([5, 1, 3, 4, 5, 2, 5, 4], np.float32)
    interactions = Interactions(
        np.zeros(8, np.int32), np.arange(8, dtype=np.int32), values, values >= 4, np.arange(8, dtype=np.int64), 1
    )
    (log,) = user_logs(interactions, TOY, seed=0)
    (case,) = split_users([log], replace(TOY, n_held_out=1, n_history=4), seed=0)
    assert case.held_out == (7,)
    assert case.answers == ((0, True), (1, False), (3, True), (4, True), (5, False), (6, True))
    assert case.likes == (0, 3, 4, 6)


def test_equal_times_and_missing_times_stand_in_random_order() -> None:
    interactions = two_camps(n_users=1, n_likes=10)
    at_once = replace(interactions, time=interactions.time * 0)
    orders = {tuple(user_logs(at_once, TOY, seed)[0].items.tolist()) for seed in range(5)}
    assert len(orders) == 5
    timed = {tuple(user_logs(interactions, replace(TOY, order="none"), seed)[0].items.tolist()) for seed in range(5)}
    assert len(timed) == 5, "a log without an order has none, whatever its column of times holds"
    assert len({tuple(user_logs(interactions, TOY, seed)[0].items.tolist()) for seed in range(5)}) == 1


def test_users_with_few_likes_are_no_cases_and_many_are_sampled() -> None:
    logs = [log_of(range(n)) for n in (3, 4, 9, 5, 6)]
    assert [case.user for case in split_users(logs, TOY, seed=0)] == [1, 2, 3, 4]
    sampled = [case.user for case in split_users(logs, replace(TOY, max_users=2), seed=0)]
    assert len(sampled) == 2 and sampled == sorted(sampled)


def test_folds_part_users_evenly() -> None:
    folds = folds_of_users(103, seed=0)
    assert sorted(np.bincount(folds).tolist()) == [20, 20, 21, 21, 21]


def test_nobody_who_is_judged_was_fitted_to() -> None:
    logs = user_logs(two_camps(), TOY, seed=0)
    trial = heldout.prepare(logs, 20, TOY, seed=0)
    everybody = sorted(tuple(log.likes.tolist()) for log in logs)
    fitted: list[list[tuple[int, ...]]] = []

    class Spy(Oracle):
        def rank(self, histories: Sequence[Sequence[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
            others = fitted[-1]
            for history in histories:
                (case,) = [case for case in trial.cases if case.likes == tuple(history)]
                assert tuple(logs[case.user].likes.tolist()) not in others
            return np.asarray(super().rank(histories))

    def fit(others: Sequence[Ints]) -> Ranker:
        fitted.append([tuple(likes.tolist()) for likes in others])
        return Spy(20)

    heldout.evaluate(trial, fit)
    assert len(fitted) == FOLDS
    # Each user is left out exactly once.
    assert sorted(likes for fold in fitted for likes in fold) == sorted(everybody * (FOLDS - 1))


def test_random_items_are_the_test_and_in_no_log() -> None:
    items, liked = np.array([3, 1, 4, 2, 0]), np.array([True, False, True, False, True])
    drawn = np.array([False, False, True, True, False])
    log = UserLog(items, liked, ~liked, drawn, np.arange(5))
    (case,) = unbiased_cases([log], replace(TOY, min_liked=1, unbiased=True))
    assert case.likes == (3, 0) and case.answers == ((3, True), (1, False), (0, True))
    assert case.items.tolist() == [4, 2] and case.liked == (True, False)
    assert without_random(log).items.tolist() == [3, 1, 0]
    nothing_liked = log._replace(liked=liked & ~drawn)
    assert unbiased_cases([nothing_liked], TOY) == [], "without both kinds there are no pairs"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_ranker_that_knows_is_measured_so(seed: int) -> None:
    logs = user_logs(two_camps(), TOY, seed)
    trial = heldout.prepare(logs, 20, TOY, seed)
    knows = heldout.evaluate(trial, lambda others: Oracle(20))
    # Two unrated items of ten in the same camp tie with the held-out ones, all ten of the other camp are below.
    assert knows["auc"] == pytest.approx(np.full(40, (10 + 0.5 * 2) / 12))
    opposite = heldout.evaluate(trial, lambda others: _Opposite(20))
    assert opposite["auc"] == pytest.approx(1 - knows["auc"])
    assert (opposite["ndcg"] < knows["ndcg"]).all() and (opposite["auc_matched"] < knows["auc_matched"]).mean() > 0.9


class _Opposite(Oracle):
    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        return -super().rank(histories)
