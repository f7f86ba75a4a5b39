"""The baseline of session ends by turn: counts by hand, and age that looks like boredom and is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from policy_examples import IGNORED, fresh_scorer, random_text

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.hazard import N_TURNS, Hazard
from service.policy.networks import RARE, NetworkConfig
from service.policy.replay import Replay
from service.policy.types import Interaction, Transition

AT_FIRST = scipy.special.expit(RARE)


def counted(*slots: tuple[int, bool, float]) -> Hazard:
    hazard = Hazard()
    turn, ended, close = zip(*slots, strict=True)
    hazard.add(torch.tensor(turn), torch.tensor(ended), torch.tensor(close))
    return hazard


def test_hazards_and_closeness_by_turn_by_hand() -> None:
    hazard = counted((0, False, 0.5), (0, True, 0.25), (2, False, 0.0))
    by_itself, usual = hazard.by_turn()
    assert by_itself[0] == pytest.approx(scipy.special.logit((1 + AT_FIRST) / 3))
    assert by_itself[1] == pytest.approx(RARE)
    assert by_itself[2] == pytest.approx(scipy.special.logit(AT_FIRST / 2))
    assert usual[:3].tolist() == [0.375, 0.0, 0.0]


def test_later_turns_count_as_the_last_that_is_told_apart() -> None:
    assert torch.equal(counted((N_TURNS + 5, True, 0.5)).counts, counted((N_TURNS - 1, True, 0.5)).counts)


def test_the_baseline_is_where_sessions_go_on() -> None:
    """At a limit all end: that says nothing of what a slate may lose."""
    going_on = [(0, n < 100, 0.2) for n in range(1000)]
    limit = [(1, True, 0.9)] * 900
    assert Hazard().baseline(1.0) is None
    baseline = counted(*going_on, *limit).baseline(2.0)
    assert baseline == pytest.approx(scipy.special.logit(0.1) - 2.0 * 0.2, abs=0.05)


@pytest.mark.parametrize("bores", [False, True])
def test_closeness_is_blamed_only_for_what_it_does(bores: bool) -> None:
    """Sessions last four turns and come closer by the turn; where closeness bores, it ends some sessions sooner."""
    rng = np.random.default_rng(94)
    config = NetworkConfig(dim=8, text_dim=8, max_history=4)
    text = random_text(rng, 12, 8)
    learner = Boltzmann(fresh_scorer(95, text, config), BoltzmannConfig(leave_learning_rate=0.05))
    cosines = (text @ text.T).numpy()
    replay, generator = Replay(5000, 4, 1), torch.Generator().manual_seed(96)
    for _ in range(60):
        new = 0
        for _ in range(40):
            shown = [int(rng.integers(12))]
            for turn in range(4):
                # The later, the rather an item that is close to what was shown last.
                weight = np.exp(3.0 * turn * cosines[shown[-1]]) * (np.arange(12) != shown[-1])
                item = int(rng.choice(12, p=weight / weight.sum()))
                history = (Interaction(shown[-1], IGNORED),)
                left = bores and rng.random() < 0.6 * max(0.0, cosines[item, shown[-1]]) ** 2
                discount = 0.0 if left or turn == 3 else 0.5
                replay.add(Transition(history, (item,), (0.0,), (1.0,), discount, history, turn))
                shown.append(item)
                new += 1
                if left:
                    break
        learner.update(replay, new, generator)
    slope = learner.actor.leave[1].item()
    assert slope > 2.0 if bores else slope < 1.0  # where it began, with nothing to learn it from
    assert math.isfinite(learner.actor.leave[0].item()) and learner.actor.leave[0] < -2.0  # the limit is no part of it
