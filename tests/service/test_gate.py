"""The gate: numbers against plain arithmetic, and every reason to refuse can be reached."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from service_examples import N_ITEMS

from service import gate
from service.policy.adaptive import ServingConfig, ServingPolicy, Variant
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.types import EMPTY_SLOT, Batch, Interaction, Response, pack_states
from service.settings import Settings

FT = ServingConfig(Variant.FT)


def policy(bias: torch.Tensor) -> ServingPolicy:
    """A policy with logits `bias` [N_ITEMS] in every state."""
    net = ItemScorer(NetworkConfig(dim=4, text_dim=4, max_history=5), torch.zeros(N_ITEMS, 4))
    with torch.no_grad():
        net.id_bias.copy_(bias)
    return ServingPolicy(net, net, net, FT)


def batch(rewards_of_first: float, n: int = 300) -> Batch:
    """n slates of one item under a uniform policy; item 0 is half of them and earns `rewards_of_first`, others 0."""
    histories = [[Interaction(29, Response.POSITIVE)]] * n
    actions = torch.tensor([[0 if row % 2 == 0 else 1 + row % 20, EMPTY_SLOT] for row in range(n)])
    rewards = torch.where(actions == 0, rewards_of_first, 0.0)
    states = pack_states(histories, 5)
    return Batch(states, actions, rewards, torch.full((n, 2), 1 / 29), torch.zeros(n), states)


def test_snips_by_hand() -> None:
    estimate = gate.snips(np.array([1.0, 0.0, 2.0]), np.array([1.0, 2.0, 1.0]))
    value = (1 * 1 + 2 * 0 + 1 * 2) / 4
    error = math.sqrt(1 * (1 - value) ** 2 + 4 * (0 - value) ** 2 + 1 * (2 - value) ** 2) / 4
    assert estimate == pytest.approx((value, value - 1.96 * error, 16 / 6, 1.0))
    assert gate.snips(np.zeros(0), np.zeros(0)) == (0.0, -math.inf, 0.0, 0.0)
    assert gate.snips(np.ones(2), np.zeros(2)).ess == 0.0


def test_snips_of_the_logging_policy_is_the_logged_mean() -> None:
    rewards = np.random.default_rng(0).random(50)
    estimate = gate.snips(rewards, np.ones(50))
    assert (estimate.value, estimate.ess) == (pytest.approx(rewards.mean()), 50)


def test_entropy_and_kl_against_plain_numpy(settings: Settings) -> None:
    generator = torch.Generator().manual_seed(0)
    new, live = torch.randn(N_ITEMS, generator=generator), torch.randn(N_ITEMS, generator=generator)
    decision = gate.check(policy(new), policy(live), batch(0.0), settings)
    p, q = (np.exp(x.numpy().astype(float)[:29]) for x in (new, live))  # item 29 is in the history
    p, q = p / p.sum(), q / q.sum()
    assert decision.numbers["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert decision.numbers["kl_to_live"] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)


def test_what_is_like_the_live_policy_passes(settings: Settings) -> None:
    flat = policy(torch.zeros(N_ITEMS))
    decision = gate.check(flat, flat, batch(1.0), settings)
    assert (decision.passed, decision.reasons) == (True, ())
    assert decision.numbers["kl_to_live"] == pytest.approx(0.0, abs=1e-9)
    assert decision.numbers["off_policy_value"] == pytest.approx(0.5)


def peaked(item: int, height: float) -> ServingPolicy:
    bias = torch.zeros(N_ITEMS)
    bias[item] = height
    return policy(bias)


@pytest.mark.parametrize(
    ("new", "rewards", "changes", "reason"),
    [
        (peaked(0, 20.0), 0.0, {"gate_max_kl": 100.0}, "entropy"),
        (peaked(0, 4.0), 0.0, {"gate_max_kl": 0.5}, "kl"),
        (peaked(1, 1.0), 1.0, {"gate_min_ess": 10.0, "gate_margin": 0.0}, "off_policy"),
    ],
)
def test_each_reason_to_refuse(
    settings: Settings, new: ServingPolicy, rewards: float, changes: dict[str, float], reason: str
) -> None:
    chosen = settings.model_copy(update=changes)
    decision = gate.check(new, policy(torch.zeros(N_ITEMS)), batch(rewards), chosen)
    assert (decision.passed, decision.reasons) == (False, (reason,))


def test_too_small_a_sample_does_not_vote(settings: Settings) -> None:
    chosen = settings.model_copy(update={"gate_min_ess": 1e6, "gate_margin": 0.0})
    assert gate.check(peaked(1, 1.0), policy(torch.zeros(N_ITEMS)), batch(1.0), chosen).passed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_policy_that_overflows_never_passes_and_its_numbers_are_json(settings: Settings, bad: float) -> None:
    decision = gate.check(policy(torch.full((N_ITEMS,), bad)), policy(torch.zeros(N_ITEMS)), batch(1.0), settings)
    assert not decision.passed
    assert all(math.isfinite(number) for number in decision.numbers.values())
