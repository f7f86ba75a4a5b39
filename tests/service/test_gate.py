"""The gate: numbers against plain arithmetic, and every reason to refuse can be reached."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.policy.adaptive import ServingPolicy
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.organic import organic_batch
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch, Interaction, Response, pack_states
from service.policy.variants import Mixture, ServingConfig, Variant
from service.settings import Settings
from service.worker import gate
from tests.service.service_examples import N_ITEMS

FT = ServingConfig(Variant.FT)
AP = ServingConfig(Variant.AP, Mixture.FIXED)
RATES = np.zeros(N_ITEMS)  # of items, whoever they are shown to


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
    assert (judged.value, judged.logged) == pytest.approx((len(paid) / 3, len(paid) / 3))
    assert judged.ess == pytest.approx(9.0)


def test_one_request_that_names_what_can_be_shown_changes_nothing_for_the_others() -> None:
    histories = [[Interaction(29, Response.POSITIVE)]] * 2
    states, zeros = pack_states(histories, 5), torch.zeros(2)
    actions, rewards = torch.tensor([[29], [3]]), torch.tensor([[1.0], [1.0]])
    batch = Batch(states, actions, rewards, torch.tensor([[1 / 2], [1 / 29]]), zeros, states, zeros)
    only = torch.tensor([[29, 4], [EMPTY_SLOT, EMPTY_SLOT]])
    assert gate.off_policy(policy(torch.zeros(N_ITEMS)), batch._replace(only=only)).ess == pytest.approx(2.0)
    # By itself what is in the history was shown for the second time, as one of all items.
    ratios = np.array([2 / 30, 1.0])
    ess = ratios.sum() ** 2 / (ratios**2).sum()
    assert gate.off_policy(policy(torch.zeros(N_ITEMS)), batch).ess == pytest.approx(ess)


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
    ess = w.sum() ** 2 / (w**2).sum()
    low, high = (value + sign * (1.96 * error + 3 * 2 / ess) for sign in (-1, 1))  # of rewards from 0 to 2
    assert judged == pytest.approx((value, max(low, 0.0), min(high, 2.0), ess, w.mean(), 0.8), rel=1e-6)


def test_entropy_and_kl_against_plain_numpy(settings: Settings) -> None:
    generator = torch.Generator().manual_seed(0)
    new, live = torch.randn(N_ITEMS, generator=generator), torch.randn(N_ITEMS, generator=generator)
    decision = gate.check(policy(new), policy(live), 0.0, batch(0.0), RATES, settings)
    p, q = (np.exp(x.numpy().astype(float)[:29]) for x in (new, live))  # item 29 is in the history
    p, q = p / p.sum(), q / q.sum()
    assert decision.numbers["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert decision.numbers["kl_to_live"] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert decision.numbers["coverage"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert decision.numbers["coverage_of_frozen"] == pytest.approx(29)


def test_coverage_counts_what_all_states_together_show() -> None:
    one_each = np.eye(4)
    assert gate.coverage(one_each.mean(0)) == pytest.approx(4)
    assert gate.coverage(one_each[[0, 0, 0]].mean(0)) == pytest.approx(1)


def peaked(item: int, height: float) -> ServingPolicy:
    bias = torch.zeros(N_ITEMS)
    bias[item] = height
    return policy(bias)


FLAT = policy(torch.zeros(N_ITEMS))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_what_is_surely_no_worse_serves_with_its_full_share_however_sure_it_is_of_itself(
    settings: Settings, share: float
) -> None:
    decision = gate.check(peaked(0, 20.0), FLAT, share, batch(1.0), RATES, settings)
    assert (decision.passed, decision.reasons, decision.share) == (True, (), 1.0)
    assert decision.numbers["entropy"] < 0.01 and decision.numbers["coverage"] < 1.01
    assert decision.numbers["off_policy_low"] > decision.numbers["logged_value"] == pytest.approx(0.5)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_what_is_surely_worse_is_refused(settings: Settings, share: float) -> None:
    decision = gate.check(peaked(2, 5.0), FLAT, share, batch(1.0), RATES, settings)
    assert (decision.passed, decision.reasons) == (False, ("off_policy",))
    assert decision.numbers["off_policy_high"] < 0.8 * decision.numbers["logged_value"]
    lenient = settings.model_copy(update={"gate_margin": 1.0})
    assert gate.check(peaked(2, 5.0), FLAT, share, batch(1.0), RATES, lenient).passed


def test_where_the_log_has_enough_and_does_not_say_less_a_version_serves(settings: Settings) -> None:
    rare = batch(0.0)
    rare.rewards[:3, 0] = 1.0
    decision = gate.check(FLAT, FLAT, 0.0, rare, RATES, settings)
    assert decision.numbers["off_policy_low"] < 0.8 * decision.numbers["logged_value"], "not proven"
    assert decision.numbers["ess"] == pytest.approx(300) and decision.numbers["overlap"] == pytest.approx(1.0)
    assert (decision.passed, decision.share) == (True, 1.0)
    strict = settings.model_copy(update={"gate_min_ess": 301.0})
    assert gate.check(FLAT, FLAT, 0.0, rare, RATES, strict).share == 0.1


@pytest.mark.parametrize(("share", "next_share"), [(0.0, 0.1), (0.1, 0.2), (0.4, 0.8), (0.8, 1.0)])
def test_what_the_log_cannot_judge_serves_with_a_small_share_and_then_with_twice_as_much(
    settings: Settings, share: float, next_share: float
) -> None:
    """Item 25 was never shown."""
    decision = gate.check(peaked(25, 9.0), FLAT, share, batch(1.0), RATES, settings)
    assert decision.passed and decision.share == pytest.approx(next_share)
    assert (decision.numbers["off_policy_low"], decision.numbers["off_policy_high"]) == pytest.approx((-1, 1), abs=0.05)
    bolder = settings.model_copy(update={"gate_trial_share": 0.9})
    assert gate.check(peaked(25, 9.0), FLAT, share, batch(1.0), RATES, bolder).share == max(0.9, next_share)


@pytest.mark.parametrize(("height", "rate", "passes"), [(9.0, 0.4, False), (9.0, 0.5, True), (1.0, 0.4, True)], ids=str)
def test_later_what_the_log_cannot_judge_must_be_near_or_of_items_that_earned_as_much(
    settings: Settings, height: float, rate: float, passes: bool
) -> None:
    rates = np.full(N_ITEMS, 0.6)
    rates[25] = rate
    strict = settings.model_copy(update={"gate_min_ess": 1e6})
    decision = gate.check(peaked(25, height), FLAT, 1.0, batch(0.3), rates, strict)
    assert (decision.passed, decision.share) == (passes, 1.0)
    assert decision.reasons == (() if passes else ("unproven",))
    assert (decision.numbers["kl_to_live"] > settings.gate_max_kl) == (height == 9.0)
    assert decision.numbers["value_by_items_of_live"] == pytest.approx(0.6, abs=0.01)


def test_where_all_was_seen_the_log_still_does_not_have_what_it_never_showed(settings: Settings) -> None:
    """Returning users of a small shop: each item is in their history, and ten of them are shown again."""
    histories = [[Interaction(item, Response.POSITIVE) for item in range(N_ITEMS)]] * 100
    rng = np.random.default_rng(0)
    actions = torch.tensor(np.array([rng.permutation(20)[:10] for _ in histories]))
    ones, zeros, states = torch.full(actions.shape, 1 / N_ITEMS), torch.zeros(100), pack_states(histories, 50)
    again = Batch(states, actions, (actions < 5).float(), ones, zeros, states, zeros)
    decision = gate.check(peaked(25, 9.0), FLAT, 0.0, again, RATES, settings)
    assert decision.numbers["overlap"] < 0.05
    assert (decision.passed, decision.share) == (True, 0.1)


def test_nothing_is_proven_by_slates_that_nobody_answered(settings: Settings) -> None:
    decision = gate.check(peaked(2, 9.0), FLAT, 0.0, batch(0.0), RATES, settings)
    assert (decision.passed, decision.share, decision.numbers["logged_value"]) == (True, 0.1, 0.0)


def test_all_is_judged_over_what_requests_named(settings: Settings) -> None:
    """Three banners of 30 items: the best of them always is as near to the live policy as it can be."""
    states, zeros = pack_states([[]] * 30, 5), torch.zeros(30)
    actions = torch.tensor([[row % 3] for row in range(30)])
    banners = Batch(
        states,
        actions,
        (actions == 0).float(),
        torch.full((30, 1), 1 / 3),
        zeros,
        states,
        zeros,
        torch.tensor([[0, 1, 2]] * 30),
    )
    decision = gate.check(peaked(0, 20.0), FLAT, 0.0, banners, RATES, settings)
    assert decision.numbers["kl_to_live"] == pytest.approx(math.log(3), abs=1e-3)
    assert decision.numbers["coverage_of_frozen"] == pytest.approx(3)
    assert (decision.passed, decision.share) == (True, 1.0)


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
    alone, both = (gate.check(new, live, 1.0, one, RATES, settings) for one in (shown, joined(shown, likes)))
    assert "off_policy_low" in alone.numbers and both.numbers == pytest.approx(alone.numbers)


@pytest.mark.filterwarnings("error")
def test_with_likes_alone_their_states_are_judged_and_nothing_is_estimated(settings: Settings) -> None:
    histories = [[Interaction(item, Response.POSITIVE)] for item in range(20)]
    likes = organic_batch(histories, [29] * 20, 5)
    decision = gate.check(FLAT, FLAT, 0.2, likes, RATES, settings)
    assert (decision.passed, decision.share) == (True, 0.4)
    by_items = {"value_by_items", "value_by_items_of_live"}
    assert set(decision.numbers) == {"entropy", "kl_to_live", "coverage", "coverage_of_frozen"} | by_items
    assert decision.numbers["coverage"] == pytest.approx(30, rel=0.01), "each history hides an item"
    emptied = likes._replace(actions=torch.full_like(likes.actions, EMPTY_SLOT), organic=None)
    assert gate.check(FLAT, FLAT, 1.0, emptied, RATES, settings).passed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_policy_that_overflows_never_passes_and_its_numbers_are_json(settings: Settings, bad: float) -> None:
    decision = gate.check(policy(torch.full((N_ITEMS,), bad)), FLAT, 0.0, batch(1.0), RATES, settings)
    assert (decision.passed, decision.reasons) == (False, ("not_finite",))
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
    numbers = gate.check(new, live, 1.0, batch(1.0), np.zeros(40), settings).numbers
    assert numbers["kl_to_live"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["coverage"] <= numbers["coverage_of_frozen"] <= (4 if of_new == 4 else 40)
