"""A learner that went wrong does no lasting harm: its version is refused, or taken back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from setups import Setup, live, mean

from service.policy.networks import ItemScorer


def shuffle(actor: ItemScorer) -> None:
    """Give each item's numbers to another."""
    order = torch.randperm(actor.n_items, generator=torch.Generator().manual_seed(0))
    for part in (actor.id_vectors, actor.id_bias, actor.taste_id):
        part.copy_(part[order].clone())


def one_for_all(actor: ItemScorer) -> None:
    """Show one item, and not the best, to everybody."""
    actor.id_bias[int(actor.id_bias.argmin())] += 30.0


def upside_down(actor: ItemScorer) -> None:
    """Show what is liked least."""
    actor.id_bias.mul_(-3.0)


@pytest.mark.parametrize("spoil", [shuffle, one_for_all, upside_down])
@pytest.mark.parametrize("seed", [0, 6, 9, 15, 22])
def test_an_unsafe_version_is_refused_or_taken_back(seed: int, spoil: Callable[[ItemScorer], None]) -> None:
    setup = Setup.drawn(seed)
    deployment = setup.deployment()
    before = live(setup, deployment, 2_000)
    with torch.no_grad():
        spoil(deployment.learning.learner.actor)
    after = live(setup, deployment, 4_000, first=10_000_000)
    error = np.std(after.adaptive) * (4 / len(after.adaptive)) ** 0.5
    assert mean(after.adaptive) > mean(before.control) - 2.5 * error, setup
    assert mean(after.adaptive) > 0.75 * mean(before.adaptive) - 2.5 * error, setup
