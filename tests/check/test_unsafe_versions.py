"""A learner that went wrong does no lasting harm: its version is refused, or taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch

from service.policy.learner import Learner
from tests.check.setups import Setup, live, mean

State = dict[str, torch.Tensor]
SLATES_EARLY, SLATES_BEFORE, SLATES_AFTER = 300, 1_700, 4_000


def shuffle(learner: Learner, early: State) -> None:
    """Give each item's numbers to another."""
    actor = learner.actor
    order = torch.randperm(actor.n_items, generator=torch.Generator().manual_seed(0))
    for part in (actor.id_vectors, actor.id_bias, actor.taste_id):
        part.copy_(part[order].clone())


def one_for_all(learner: Learner, early: State) -> None:
    """Show one item, and not the best, to everybody."""
    learner.actor.id_bias[int(learner.actor.id_bias.argmin())] += 30.0


def upside_down(learner: Learner, early: State) -> None:
    """Show what is liked least."""
    learner.actor.id_bias.mul_(-3.0)


def stale(learner: Learner, early: State) -> None:
    """Go back to what was known after a fraction of the log, and miss the rest."""
    learner.load_state_dict(early)


SPOILERS: tuple[Callable[[Learner, State], None], ...] = (shuffle, one_for_all, upside_down, stale)


def error_of(*samples: Sequence[float]) -> float:
    """Standard error of the difference of the samples' means."""
    return float(np.sqrt(sum(np.var(sample) / len(sample) for sample in samples)))


@pytest.mark.parametrize("seed", range(40))
def test_an_unsafe_version_is_refused_or_taken_back(seed: int) -> None:
    """What is earned afterwards is not credibly less than the frozen control earns all along, nor than three quarters
    of what was earned before."""
    setup = Setup.drawn(seed)
    healthy = setup.deployment()
    live(setup, healthy, SLATES_EARLY)
    early = deepcopy(healthy.learning.learner.state_dict())
    before = live(setup, healthy, SLATES_BEFORE, first=1_000_000)
    served = before.adaptive[len(before.adaptive) // 2 :]
    for spoil in SPOILERS:
        deployment = deepcopy(healthy)
        with torch.no_grad():
            spoil(deployment.learning.learner, early)
        after = live(setup, deployment, SLATES_AFTER, first=10_000_000)
        lasting = after.adaptive[len(after.adaptive) // 2 :]
        control = before.control + after.control
        assert mean(lasting, 1.0) > mean(control, 1.0) - 2.5 * error_of(lasting, control), (spoil.__name__, setup)
        assert mean(lasting, 1.0) > 0.75 * mean(served, 1.0) - 2.5 * error_of(lasting, served), (spoil.__name__, setup)
