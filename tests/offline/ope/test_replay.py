"""The target on a log: its propensities, the reward model, and the estimates against rewards that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.errors import OfflineError
from offline.ope import reward_model
from offline.ope.evaluation import OpeConfig, evaluate
from offline.ope.log import Log
from offline.ope.replay import left_at_slots, replay
from offline.ope.target import Target, available, index_log, open_target
from service.policy.off_policy import Terms, estimate
from service.policy.profiles import session_profiles
from service.policy.sampling import slate_propensities
from service.policy.types import EMPTY_SLOT, Response
from service.policy.variants import Arm
from tests.offline.ope_examples import click_probability, draw_log, probabilities
from tests.service.service_examples import make_snapshot


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_what_is_left_at_each_slot_is_what_sampling_says(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(7, 0.2))
    items = rng.choice(7, k, replace=False)
    left = left_at_slots(probs[np.newaxis], items[np.newaxis])[0]
    for slot in range(k):
        assert left[slot] == pytest.approx(np.delete(probs, items[:slot]).sum(), rel=1e-12)
    chosen = np.divide(probs[items], left, out=np.zeros(k), where=left > 0)
    assert chosen == pytest.approx(slate_propensities(probs, items), rel=1e-12)


def test_a_slot_without_a_row_takes_nothing_away() -> None:
    values = np.array([[0.5, 0.3, 0.2]])
    assert left_at_slots(values, np.array([[EMPTY_SLOT, 1, 0, EMPTY_SLOT]])) == pytest.approx(
        np.array([[1.0, 1.0, 0.7, 0.2]])
    )


def test_the_policy_that_was_logged_has_ratio_one_everywhere(log: Log, behaviour: Target) -> None:
    indexed = index_log(log, behaviour)
    assert replay(log, indexed, behaviour, 5, 0).ratios == pytest.approx(1.0, rel=1e-4)
    evaluation = evaluate(log, behaviour, OpeConfig())
    for rows in (evaluation.per_slot, evaluation.per_slate):
        for name in {"ips", "snips", "rips"} & set(rows):
            assert rows[name][:3] == pytest.approx(rows["logged"][:3], rel=1e-4)
    assert evaluation.diagnostics["ess_slots"] == pytest.approx(evaluation.counts["slots"])


def test_what_could_be_shown_follows_every_mask(log: Log, target: Target) -> None:
    for row in range(60):
        slate = log.slates[row]
        shown = {
            item for item, can in zip(target.item_ids, available(log, target, np.array([row]))[0], strict=True) if can
        }
        expected = set(log.catalogue[: slate.n_items]) - set(slate.hidden) - set(slate.masked)
        assert shown == expected & set(slate.candidates if slate.candidates is not None else log.catalogue)


def test_an_item_the_log_never_had_is_not_available(log: Log, target: Target) -> None:
    shorter = replace(log, catalogue=log.catalogue[:20], slates=tuple(replace(s, items=()) for s in log.slates))
    assert not available(shorter, target, np.arange(10))[:, 20:].any()
    assert available(shorter, target, np.arange(10))[:, :20].any()


def test_the_estimates_agree_with_the_known_rewards(log: Log, target: Target) -> None:
    """Truth of the slot estimand given these sessions and the slots above: sum_a pi(a | s, above) click(a)."""
    indexed = index_log(log, target)
    probs = probabilities(log, target)
    truth = []
    for row, slate in enumerate(log.slates):
        left = probs[row].copy()
        for slot in range(len(slate.items)):
            clicks = np.array([click_probability(item, slot) for item in range(len(left))])
            truth.append((left * clicks).sum() / left.sum())
            left[indexed.shown[row, slot]] = 0.0
    evaluation = evaluate(log, target, OpeConfig(bootstrap=200))
    values, half = {}, {}
    for name in ("ips", "snips", "dr", "switch_dr", "dm"):
        row_ = evaluation.per_slot[name]
        assert row_.value is not None and row_.low is not None and row_.high is not None
        values[name], half[name] = row_.value, (row_.high - row_.low) / 2
    # The direct method's interval leaves out the noise of the rewards that its model was fitted to; DR's has it.
    for name, error in {**{name: 2 * half[name] for name in half}, "dm": half["dr"]}.items():
        assert abs(values[name] - np.mean(truth)) < error, name
    assert half["dr"] < half["ips"]
    assert evaluation == evaluate(log, target, OpeConfig(bootstrap=200))
    assert evaluation != evaluate(log, target, OpeConfig(bootstrap=200, seed=1))


def test_where_the_weights_are_worth_fewer_than_ten_rows_there_is_no_answer(log: Log, target: Target) -> None:
    few = replace(log, slates=log.slates[:12])
    evaluation = evaluate(few, target, OpeConfig(bootstrap=50))
    assert evaluation.diagnostics["ess_slates"] < 10 < evaluation.diagnostics["ess_slots"]
    for name, row in evaluation.per_slate.items():
        assert (row.value is None) == (row.low is None) == (row.bootstrap_low is None) == (name != "logged")
    assert evaluation.per_slot["snips"].value is not None
    # Three times the span of the rewards over the effective sample size.
    rewards = np.array([reward for slate in few.slates for reward in slate.rewards])
    users = np.repeat(index_log(few, target).user, [len(slate.items) for slate in few.slates])
    plain, logged = estimate(Terms(rewards, np.ones_like(rewards)), users), evaluation.per_slot["logged"]
    assert logged.high == pytest.approx(plain.high + 3 * np.ptp([*rewards, 0.0]) / len(rewards))


def test_the_reward_model_learns_what_pays(log: Log, target: Target) -> None:
    indexed = index_log(log, target)
    text = target.text.numpy().astype(np.float64)
    profiles = session_profiles(indexed.states, text)
    model = reward_model.fit(indexed, profiles, text, np.ones(len(log.slates), np.bool_))
    values = model.values(profiles, text).mean(0)
    comedies = np.arange(len(text)) % 3 == 1
    assert values[comedies].mean() - values[~comedies].mean() == pytest.approx(0.5, abs=0.1)
    assert model.slot[0] > model.slot[2]


def test_profiles_are_means_by_response(log: Log, target: Target) -> None:
    indexed = index_log(log, target)
    text = target.text.numpy().astype(np.float64)
    profiles = session_profiles(indexed.states, text)
    index = {item: row for row, item in enumerate(target.item_ids)}
    for row in range(20):
        slate = log.slates[row]
        for c, response in enumerate((Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)):
            past = zip(slate.history_items, slate.history_rewards, strict=True)
            mine = [text[index[item]] for item, reward in past if np.sign(reward) == response]
            assert profiles[row, c] == pytest.approx(np.mean(mine, axis=0) if mine else 0.0)


def test_ridge_finds_the_weights_and_shrinks_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    x -= x.mean(0)
    weights = np.array([1.0, -2.0, 0.0, 0.5, 3.0])
    assert reward_model.ridge(x, x @ weights) == pytest.approx(weights, abs=1e-4)
    noise = rng.normal(size=400)
    plain = np.linalg.lstsq(x, noise, rcond=None)[0]
    assert np.linalg.norm(reward_model.ridge(x, noise)) < 0.9 * np.linalg.norm(plain)
    assert reward_model.ridge(np.zeros((0, 5)), np.zeros(0)) == pytest.approx(np.zeros(5))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(2, 5), st.integers(0, 9))
def test_a_user_is_in_one_fold(owners: list[int], n_folds: int, seed: int) -> None:
    user = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    fold = reward_model.folds_of(user, n_folds, seed)
    assert ((fold >= 0) & (fold < n_folds)).all()
    for one in set(user.tolist()):
        assert len(set(fold[user == one].tolist())) == 1


def test_items_without_a_row_are_never_shown_by_the_target(log: Log, tmp_path: Path) -> None:
    small = open_target(make_snapshot(tmp_path / "snapshot", n_items=20, seed=3), Arm.ADAPTIVE)
    indexed = index_log(log, small)
    ratios = replay(log, indexed, small, 5, 0).ratios
    missing = indexed.filled & (indexed.shown == EMPTY_SLOT)
    assert missing.any() and (ratios[missing] == 0).all() and (ratios[indexed.filled & ~missing] > 0).all()
    evaluation = evaluate(log, small, OpeConfig())
    assert evaluation.counts["slots_without_row"] == missing.sum()


def test_slates_that_cannot_be_used_are_left_out_and_counted(log: Log, target: Target) -> None:
    empty = replace(log.slates[0], items=(), propensities=(), rewards=())
    unsure = replace(log.slates[1], verified=False)
    mixed = replace(log, slates=(empty, unsure, *log.slates[2:]))
    counts = evaluate(mixed, target, OpeConfig(logged_arm="adaptive")).counts
    control = sum(slate.arm == "control" for slate in mixed.slates)
    assert (counts["other_arm"], counts["empty"], counts["unverified"]) == (control, 0, 1)
    assert counts["slates"] == counts["logged"] - control - 1
    counts = evaluate(mixed, target, OpeConfig(keep_unverified=True)).counts
    assert (counts["empty"], counts["unverified"], counts["slates"]) == (1, 0, len(mixed.slates) - 1)


def test_a_log_that_tells_nothing_is_refused(behaviour: Target, target: Target) -> None:
    log = draw_log(behaviour, 3, seed=0)
    with pytest.raises(OfflineError, match="all of one user"):
        evaluate(log, target, OpeConfig())
    unsure = replace(log, slates=tuple(replace(slate, verified=False) for slate in log.slates))
    with pytest.raises(OfflineError, match=r"3 unverified.*--keep-unverified"):
        evaluate(unsure, target, OpeConfig())
    with pytest.raises(OfflineError, match="no slate is left of the log's 0"):
        evaluate(replace(log, slates=()), target, OpeConfig())
