"""The gate: numbers against plain arithmetic, and every reason to refuse can be reached."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from service_examples import N_ITEMS

from service import gate
from service.policy.adaptive import Mixture, ServingConfig, ServingPolicy, Variant
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.organic import organic_batch
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch, Interaction, Response, pack_states
from service.settings import Settings

FT = ServingConfig(Variant.FT)
AP = ServingConfig(Variant.AP, Mixture.FIXED)
NO_OTHER = {"gate_max_kl": 100.0, "gate_max_kl_to_frozen": 100.0, "gate_coverage_floor": 0.0}


def network(bias: torch.Tensor) -> ItemScorer:
    net = ItemScorer(NetworkConfig(dim=4, text_dim=4, max_history=5, temperature=1.0), torch.zeros(len(bias), 4))
    with torch.no_grad():
        net.id_bias.copy_(bias)
    return net


def policy(bias: torch.Tensor) -> ServingPolicy:
    """A policy with logits `bias` [N_ITEMS] in every state; the frozen one is uniform."""
    net = network(bias)
    return ServingPolicy.of(network(torch.zeros(len(bias))), net, net, FT)


def batch(rewards_of_first: float, n: int = 300) -> Batch:
    """n slates of one item under a uniform policy; item 0 is half of them and earns `rewards_of_first`, others 0."""
    histories = [[Interaction(29, Response.POSITIVE)]] * n
    actions = torch.tensor([[0 if row % 2 == 0 else 1 + row % 20, EMPTY_SLOT] for row in range(n)])
    rewards = torch.where(actions == 0, rewards_of_first, 0.0)
    states = pack_states(histories, 5)
    return Batch(states, actions, rewards, torch.full((n, 2), 1 / 29), torch.zeros(n), states, torch.zeros(n))


@pytest.mark.parametrize("paid", [(0,), (1, 2)], ids=["what was used before", "what was not"])
def test_requests_that_named_what_could_be_shown_are_judged_by_that(paid: tuple[int, ...]) -> None:
    """As /personalizer does, which shows things again: for the uniform policy that drew them every ratio is one."""
    named, history = [0, 1, 2], [Interaction(0, Response.POSITIVE)]
    actions = torch.tensor([[row % 3, EMPTY_SLOT] for row in range(9)])
    rewards = torch.tensor([[float(row % 3 in paid), 0.0] for row in range(9)])
    states, zeros = pack_states([history] * 9, 5), torch.zeros(9)
    propensities, only = torch.tensor([[1 / 3, 1.0]] * 9), torch.tensor([named] * 9)
    batch = Batch(states, actions, rewards, propensities, zeros, states, zeros, only)
    judged = gate.off_policy(policy(torch.zeros(N_ITEMS)), batch)
    assert (judged.value, judged.logged) == (pytest.approx(len(paid) / 3), pytest.approx(len(paid) / 3))
    assert judged.ess == pytest.approx(9.0)


def test_one_request_that_names_what_can_be_shown_changes_nothing_for_the_others() -> None:
    histories = [[Interaction(29, Response.POSITIVE)]] * 2
    states, zeros = pack_states(histories, 5), torch.zeros(2)
    actions, rewards = torch.tensor([[29], [3]]), torch.tensor([[1.0], [1.0]])
    batch = Batch(states, actions, rewards, torch.tensor([[1 / 2], [1 / 29]]), zeros, states, zeros)
    only = torch.tensor([[29, 4], [EMPTY_SLOT, EMPTY_SLOT]])
    assert gate.off_policy(policy(torch.zeros(N_ITEMS)), batch._replace(only=only)).ess == pytest.approx(2.0)
    assert gate.off_policy(policy(torch.zeros(N_ITEMS)), batch).ess == pytest.approx(1.0)


def test_the_off_policy_estimate_by_hand() -> None:
    """Slates of two under a uniform policy: the same as plain SNIPS, with each slate as one."""
    histories = [[Interaction(29, Response.POSITIVE)]] * 3
    actions = torch.tensor([[0, 1], [1, 2], [2, EMPTY_SLOT]])
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    propensities = torch.tensor([[0.02, 0.04], [0.04, 0.02], [0.02, 1.0]])
    states = pack_states(histories, 5)
    judged = gate.off_policy(
        policy(torch.zeros(N_ITEMS)),
        Batch(states, actions, rewards, propensities, torch.zeros(3), states, torch.zeros(3)),
    )
    w = np.array([50 / 29, 25 / 28, 25 / 29, 50 / 28, 50 / 29])
    r = np.array([1.0, 0.0, 0.0, 1.0, 2.0])
    value = (w * r).sum() / w.sum()
    psi = w * (r - value)
    error = math.sqrt(3 / 2 * ((psi[0] + psi[1]) ** 2 + (psi[2] + psi[3]) ** 2 + psi[4] ** 2)) / w.sum()
    assert judged == pytest.approx((value, value - 1.96 * error, w.sum() ** 2 / (w**2).sum(), 0.8), rel=1e-6)


def test_entropy_and_kl_against_plain_numpy(settings: Settings) -> None:
    generator = torch.Generator().manual_seed(0)
    new, live = torch.randn(N_ITEMS, generator=generator), torch.randn(N_ITEMS, generator=generator)
    decision = gate.check(policy(new), policy(live), batch(0.0), settings)
    p, q = (np.exp(x.numpy().astype(float)[:29]) for x in (new, live))  # item 29 is in the history
    p, q = p / p.sum(), q / q.sum()
    assert decision.numbers["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert decision.numbers["kl_to_live"] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert decision.numbers["kl_to_frozen"] == pytest.approx((p * np.log(p * 29)).sum(), rel=1e-5)
    assert decision.numbers["coverage"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert decision.numbers["coverage_of_frozen"] == pytest.approx(29)


def test_coverage_counts_what_all_states_together_show() -> None:
    one_each = np.eye(4)
    assert gate.coverage(one_each.mean(0)) == pytest.approx(4)
    assert gate.coverage(one_each[[0, 0, 0]].mean(0)) == pytest.approx(1)


def test_what_is_like_the_live_policy_passes(settings: Settings) -> None:
    flat = policy(torch.zeros(N_ITEMS))
    decision = gate.check(flat, flat, batch(1.0), settings)
    assert (decision.passed, decision.reasons) == (True, ())
    assert decision.numbers["kl_to_live"] == pytest.approx(0.0, abs=1e-9)
    assert decision.numbers["off_policy_value"] == pytest.approx(0.5)


def test_a_policy_as_sharp_as_the_demos_learner_is_no_collapse(settings: Settings) -> None:
    """There, a learned policy's first item is one of two or three in most states, where the frozen one's is of 230."""
    bias = torch.zeros(260)
    bias[[3, 4]] = 10.0
    decision = gate.check(policy(bias), policy(torch.zeros(260)), batch(0.0), settings)
    assert 0.5 < decision.numbers["entropy"] < 1.0 and decision.numbers["coverage"] < 2.6
    assert decision.passed, decision.reasons


@pytest.mark.parametrize(("share", "passes"), [(0.99, True), (1.01, False)])
def test_the_entropy_floor_is_a_share_of_what_there_could_be(settings: Settings, share: float, passes: bool) -> None:
    """A uniform policy over the 29 items of 30 that are not in the history."""
    flat = policy(torch.zeros(N_ITEMS))
    floor = settings.model_copy(update={"gate_entropy_floor": share * math.log(29) / math.log(30)})
    assert gate.check(flat, flat, batch(1.0), floor).passed == passes


def peaked(item: int, height: float) -> ServingPolicy:
    bias = torch.zeros(N_ITEMS)
    bias[item] = height
    return policy(bias)


@pytest.mark.parametrize(
    ("new", "rewards", "changes", "reason"),
    [
        (
            peaked(0, 20.0),
            0.0,
            {"gate_max_kl": 100.0, "gate_max_kl_to_frozen": 100.0, "gate_coverage_floor": 0.0},
            "entropy",
        ),
        (peaked(0, 4.0), 0.0, {"gate_max_kl": 0.5}, "kl"),
        (peaked(0, 4.0), 0.0, {"gate_max_kl_to_frozen": 0.5}, "kl_to_frozen"),
        (peaked(0, 4.0), 0.0, {"gate_coverage_floor": 0.9}, "coverage"),
        (peaked(1, 1.0), 1.0, {"gate_min_ess": 10.0, "gate_margin": 0.0}, "off_policy"),
    ],
)
def test_each_reason_to_refuse(
    settings: Settings, new: ServingPolicy, rewards: float, changes: dict[str, float], reason: str
) -> None:
    chosen = settings.model_copy(update=changes)
    decision = gate.check(new, policy(torch.zeros(N_ITEMS)), batch(rewards), chosen)
    assert (decision.passed, decision.reasons) == (False, (reason,))


def joined(*batches: Batch) -> Batch:
    """One after the other; all with as many slots."""
    replay = Replay(1_000, 5, batches[0].actions.shape[1])
    for one in batches:
        replay.extend(one)
    return replay.latest(1_000)


def test_likes_without_an_impression_are_no_part_of_the_estimate(settings: Settings) -> None:
    histories = [[Interaction(29, Response.POSITIVE)]] * 200
    likes = organic_batch(histories, [3] * 200, 5)
    shown = batch(1.0)
    new, live = peaked(3, 2.0), policy(torch.zeros(N_ITEMS))
    alone, both = (gate.check(new, live, one, settings) for one in (shown, joined(shown, likes)))
    assert "off_policy_low" in alone.numbers and both.numbers == pytest.approx(alone.numbers)


@pytest.mark.filterwarnings("error")
def test_with_likes_alone_their_states_are_judged_and_nothing_is_estimated(settings: Settings) -> None:
    histories = [[Interaction(item, Response.POSITIVE)] for item in range(20)]
    likes = organic_batch(histories, [29] * 20, 5)
    flat = policy(torch.zeros(N_ITEMS))
    decision = gate.check(flat, flat, likes, settings)
    assert decision.passed
    assert set(decision.numbers) == {"entropy", "kl_to_live", "kl_to_frozen", "coverage", "coverage_of_frozen"}
    assert decision.numbers["coverage"] == pytest.approx(30, rel=0.01), "each history hides an item"
    refused = gate.check(peaked(29, 20.0), flat, likes, settings)
    assert "entropy" in refused.reasons and "off_policy" not in refused.reasons
    emptied = likes._replace(actions=torch.full_like(likes.actions, EMPTY_SLOT), organic=None)
    assert gate.check(flat, flat, emptied, settings).passed


def test_too_small_a_sample_does_not_vote(settings: Settings) -> None:
    chosen = settings.model_copy(update={"gate_min_ess": 1e6, "gate_margin": 0.0})
    assert gate.check(peaked(1, 1.0), policy(torch.zeros(N_ITEMS)), batch(1.0), chosen).passed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_policy_that_overflows_never_passes_and_its_numbers_are_json(settings: Settings, bad: float) -> None:
    decision = gate.check(policy(torch.full((N_ITEMS,), bad)), policy(torch.zeros(N_ITEMS)), batch(1.0), settings)
    assert not decision.passed
    assert all(math.isfinite(number) for number in decision.numbers.values())


@pytest.mark.parametrize(("of_new", "of_live"), [(4, 4), (4, 100), (100, 4)])
def test_policies_are_compared_whatever_their_numbers_of_candidates(
    settings: Settings, of_new: int, of_live: int
) -> None:
    """Of 40 items, four candidates or all: on those of the new one; the same policy differs from itself by nothing."""
    bias = torch.linspace(-2, 2, 40)
    new, live = (
        ServingPolicy.of(network(torch.zeros(40)), network(bias), network(bias), replace(AP, candidates=n))
        for n in (of_new, of_live)
    )
    assert (new.is_narrowed, live.is_narrowed) == (of_new == 4, of_live == 4)
    numbers = gate.check(new, live, batch(1.0), settings).numbers
    assert numbers["kl_to_live"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["coverage"] <= numbers["coverage_of_frozen"] <= (4 if of_new == 4 else 40)
