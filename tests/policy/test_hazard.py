"""Session ends by turn: counts by hand, the slope against scipy, and age that looks like boredom and is not."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from torch import Tensor

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.hazard import N_TURNS, Hazard
from service.policy.networks import RARE, NetworkConfig
from service.policy.replay import Replay
from service.policy.types import Interaction, Transition
from tests.policy.policy_examples import IGNORED, fresh_scorer, random_text

AT_FIRST = scipy.special.expit(RARE)


def counted(*slates: tuple[int, bool, float]) -> Hazard:
    hazard = Hazard()
    turn, ended, close = zip(*slates, strict=True)
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


Slates = tuple[Tensor, Tensor, Tensor]
LEVELS = (0.05, 0.1, 0.4)  # of ends by turn


def slates(seed: int, n: int, slope: float) -> Slates:
    """Turn, end and closeness of n slates; later ones are closer, and all else equal end a session more often."""
    rng = np.random.default_rng(seed)
    turn = rng.integers(len(LEVELS), size=n)
    close = np.clip(rng.beta(1.0, 2.0, size=n) + 0.1 * turn, 0.0, 1.0)
    logit = scipy.special.logit(np.array(LEVELS))[turn] + slope * (close - 0.4)
    return torch.from_numpy(turn), torch.from_numpy(rng.random(n) < scipy.special.expit(logit)), torch.from_numpy(close)


def batches(given: Slates, size: int) -> Iterator[Slates]:
    turn, ended, close = (torch.split(part, size) for part in given)
    return zip(turn, ended, close, strict=True)


def slope_by_scipy(given: Slates, first: float) -> float:
    """Of one logistic regression on all slates, each turn at the share of its ends, the slope around the `first`."""
    turn, ended, close = (part.double().numpy() for part in given)
    there = np.eye(len(LEVELS))[turn.astype(int)]
    ends, usual = ((part @ there) / there.sum(0) for part in (ended, close))

    def loss(slope: float) -> float:
        f = there @ scipy.special.logit(ends) + slope * (close - there @ usual)
        return float(0.25 * (slope - first) ** 2 + (np.logaddexp(0, f) - ended * f).sum())

    return float(scipy.optimize.minimize_scalar(loss, bracket=(0.0, 1.0)).x)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 2.0, 5.0])
def test_the_slope_that_is_found_batch_by_batch_is_that_of_all_slates_at_once(slope: float) -> None:
    """It is near the truth, too, though where slates differ much a turn's share of ends says less than its slates'."""
    given, hazard, found = slates(97, 12_000, slope), Hazard(), 1.0
    for turn, ended, close in batches(given, 60):
        hazard.add(turn, ended, close)
        found = hazard.better_slope(turn, ended, close, found)
    deviation = 1 / math.sqrt(hazard.curvature.item())
    assert deviation < 0.25
    assert found == pytest.approx(slope_by_scipy(given, 1.0), abs=deviation)
    assert found == pytest.approx(slope, abs=4 * deviation + 0.1 * abs(slope))


def test_a_step_is_newtons_by_hand() -> None:
    """Of slates at known turns, one of which is at its mean."""
    hazard = counted(*[(0, n < 10, 0.2) for n in range(40)], *[(1, n < 20, 0.6) for n in range(40)])
    slope = hazard.better_slope(
        torch.tensor([0, 1, 1]), torch.tensor([True, False, True]), torch.tensor([0.5, 0.6, 0.4]), 0.7
    )
    slope_by_loop, curvature = 0.0, 0.5 * 0.9995**0.03
    for ends, ended, x in ((10, 1.0, 0.3), (20, 0.0, 0.0), (20, 1.0, -0.2)):
        p = scipy.special.expit(scipy.special.logit((ends + AT_FIRST) / 41) + 0.7 * x)
        slope_by_loop += x * (ended - p)
        curvature += x * x * p * (1 - p)
    assert slope == pytest.approx(0.7 + slope_by_loop / curvature, abs=1e-6)
    assert hazard.curvature.item() == pytest.approx(curvature, abs=1e-6)


def test_turns_with_few_slates_are_not_used() -> None:
    known, few = [(0, n < 6, 0.01 * n) for n in range(30)], [(1, n < 6, 0.01 * n) for n in range(29)]
    both, alone, neither = counted(*known, *few), counted(*known), counted(*few)
    turn, ended, close = torch.tensor([0, 1, 2]), torch.tensor([False, True, True]), torch.tensor([0.9, 0.8, 0.7])
    assert neither.better_slope(turn, ended, close, 1.0) == 1.0
    assert neither.curvature.item() == 0.5  # nothing came in, nothing fades
    assert both.better_slope(turn, ended, close, 1.0) == alone.better_slope(turn[:1], ended[:1], close[:1], 1.0) < 1.0
    assert torch.equal(both.curvature, alone.curvature)


def test_turns_beyond_the_last_learn_with_it() -> None:
    hazards = [counted(*[(N_TURNS - 1, n < 6, 0.01 * n) for n in range(30)]) for _ in range(2)]
    ended, close = torch.tensor([True]), torch.tensor([0.9])
    slopes = [
        hazard.better_slope(torch.tensor([turn]), ended, close, 1.0)
        for hazard, turn in zip(hazards, (N_TURNS - 1, N_TURNS + 7), strict=True)
    ]
    assert slopes[0] == slopes[1] > 1.0


def test_no_batch_takes_the_slope_far() -> None:
    hazard = counted(*[(0, n < 20, 0.0) for n in range(40)])
    turn, close = torch.zeros(5000, dtype=torch.int64), torch.ones(5000)
    assert hazard.better_slope(turn, torch.ones(5000, dtype=torch.bool), close, 1.0) == 1.5


def test_old_evidence_fades_and_a_new_world_is_found_out() -> None:
    hazard = counted(*[(0, n < 10, 0.4) for n in range(40)])
    hazard.curvature.fill_(1000.0)
    hazard.better_slope(
        torch.zeros(100, dtype=torch.int64), torch.zeros(100, dtype=torch.bool), torch.full((100,), 0.4), 1.0
    )
    assert hazard.curvature.item() == pytest.approx(999.5)  # they stood at their turn's mean, and told nothing
    slopes, hazard, slope = [], Hazard(), 1.0
    for truth, seed in ((4.0, 98), (-1.0, 99)):
        # As if each slate stood for ten: what fades does so over very many.
        for turn, ended, close in batches(slates(seed, 60_000, truth), 200):
            hazard.add(turn, ended, close)
            slope = hazard.better_slope(turn, ended, close, slope)
            hazard.curvature *= 0.9
        slopes.append(slope)
    assert slopes[0] > 3.0
    assert slopes[1] < 0.5


@pytest.mark.parametrize("bores", [False, True])
def test_closeness_is_blamed_only_for_what_it_does(bores: bool) -> None:
    """Sessions last four turns and come closer by the turn; where closeness bores, it ends some sessions sooner."""
    rng = np.random.default_rng(94)
    config = NetworkConfig(dim=8, text_dim=8, max_history=4)
    text = random_text(rng, 12, 8)
    learner = Boltzmann(fresh_scorer(95, text, config), BoltzmannConfig())
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
