from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.policy.adaptive import Distribution, Query, entropy
from service.policy.exact_policy import ExactPolicy, masked_softmax
from service.policy.networks import ItemScorer
from service.policy.types import pack_states
from service.policy.variants import Arm, Mixture, ServingConfig, Variant, mixture_weights
from tests.policy.network_loops import advantage_by_loop, logits_by_loop
from tests.policy.policy_examples import CONFIG, liked, random_history, random_scorer, random_text

ITEMS = 8
Probs = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
HISTORY = random_history(np.random.default_rng(61), 3, ITEMS)
VARIANTS = [
    ServingConfig(Variant.FROZEN),
    ServingConfig(Variant.FT),
    ServingConfig(Variant.AP, Mixture.FIXED, fixed_weight=0.3),
    ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=0.5),
    ServingConfig(Variant.FT, most_learned=0.2),
]


def networks() -> tuple[ItemScorer, ItemScorer, ItemScorer]:
    """Pre-trained, learned, critic; the same at every call."""
    rng = np.random.default_rng(62)
    text = random_text(rng, ITEMS)
    one, two, three = (random_scorer(rng, text).requires_grad_(False) for _ in range(3))
    return one, two, three


def available(*hidden: int) -> Mask:
    mask = np.ones(ITEMS, dtype=bool)
    mask[list(hidden)] = False
    return mask


def test_what_is_hidden_takes_no_share_of_the_curiosity() -> None:
    """A hidden item of which nothing is known does not make the others be tried any less."""
    rng = np.random.default_rng(66)
    scorer = random_scorer(rng, random_text(rng, ITEMS)).requires_grad_(False)
    scorer.information[2], scorer.information[5] = 0.0, 0.5
    mask = available(2)
    grown = scorer.with_text(torch.cat([scorer.text, scorer.text[2:3]])).requires_grad_(False)  # one more such item
    alone = network_probs(scorer, mask)
    policy = ExactPolicy(grown, grown, grown, VARIANTS[1])
    served = policy.serving.distribution(HISTORY, np.append(mask, False)).probs
    np.testing.assert_allclose(served[:ITEMS], alone, atol=1e-5)


def softmax_by_loop(logits: Probs, mask: Mask) -> Probs:
    mass = [math.exp(float(x)) if ok else 0.0 for x, ok in zip(logits, mask, strict=True)]
    return np.array([m / math.fsum(mass) for m in mass])


def network_probs(scorer: ItemScorer, mask: Mask, prior: ItemScorer | None = None) -> Probs:
    return softmax_by_loop(logits_by_loop(scorer, HISTORY, prior, mask), mask)


def serve(config: ServingConfig, mask: Mask, arm: Arm = Arm.ADAPTIVE) -> Distribution:
    return ExactPolicy(*networks(), config).serving.distribution(HISTORY, mask, arm)


def test_masked_softmax_by_a_loop() -> None:
    rng = np.random.default_rng(63)
    logits, mask = rng.normal(size=(4, ITEMS)).astype(np.float32), rng.random((4, ITEMS)) < 0.6
    mask[:, 0] = True
    oracle = np.stack([softmax_by_loop(row, ok) for row, ok in zip(logits, mask, strict=True)])
    np.testing.assert_allclose(masked_softmax(logits, mask), oracle, rtol=1e-12)
    np.testing.assert_allclose(masked_softmax(logits[1], mask[1]), oracle[1], rtol=1e-12)


def test_masked_softmax_of_huge_logits_is_finite() -> None:
    logits = np.array([3e38, 3e38, -3e38], dtype=np.float32)
    np.testing.assert_array_equal(masked_softmax(logits, np.ones(3, dtype=bool)), [0.5, 0.5, 0.0])


def test_masked_softmax_of_nothing_is_all_zero() -> None:
    logits, mask = np.ones((2, 3), dtype=np.float32), np.array([[False] * 3, [False, True, False]])
    np.testing.assert_array_equal(masked_softmax(logits, mask), [[0, 0, 0], [0, 1, 0]])
    assert masked_softmax(np.empty(0, np.float32), np.empty(0, bool)).shape == (0,)


def test_mixture_weights_by_hand() -> None:
    weights = mixture_weights(np.array([1.0, 1.1]), 0.1)
    np.testing.assert_allclose(weights, [1 / (1 + math.e), math.e / (1 + math.e)])
    np.testing.assert_allclose(mixture_weights(np.array([[2.0, 0.0], [2.0, 1000.0]]), 0.01), [[0.5, 0], [0.5, 1]])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=4), st.floats(1e-3, 1e3))
def test_mixture_weights_sum_to_one_and_follow_the_order_of_q(q: list[float], temperature: float) -> None:
    weights = mixture_weights(np.array(q), temperature)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[int(np.argmax(q))] == weights.max()


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_the_control_arm_serves_the_pretrained_policy(config: ServingConfig) -> None:
    mask = available(1, 6)
    control = serve(config, mask, Arm.CONTROL)
    np.testing.assert_allclose(control.probs, network_probs(networks()[0], mask), atol=1e-6)
    assert control.weight == 0


def test_frozen_serves_the_pretrained_and_ft_the_learned_policy() -> None:
    mask = available(2)
    pretrained, learned, _ = networks()
    alone, on_its_prior = network_probs(learned, mask), network_probs(learned, mask, pretrained)
    np.testing.assert_allclose(serve(VARIANTS[0], mask).probs, network_probs(pretrained, mask), atol=1e-6)
    np.testing.assert_allclose(serve(VARIANTS[1], mask).probs, alone, atol=1e-6)
    for other in (network_probs(pretrained, mask), on_its_prior):  # or the tolerance would not tell
        assert np.abs(other - alone).max() > 0.05


def test_in_ft_the_pretrained_policy_takes_no_part() -> None:
    mask = available(2)
    served, (one, learned, critic) = serve(VARIANTS[1], mask), networks()
    other = random_scorer(np.random.default_rng(65), one.text).requires_grad_(False)
    again = ExactPolicy(other, learned, critic, VARIANTS[1]).serving.distribution(HISTORY, mask)
    for probs in (served.pretrained, served.learned, again.probs):
        np.testing.assert_array_equal(probs, served.probs)
    assert served.weight == 1


@pytest.mark.parametrize("gains", [(0.0, 0.0), (0.4, 0.4), (1.0, 0.0), (0.0, 1.0), (-1.5, 0.7)], ids=str)
def test_the_learned_policy_adds_both_parts_of_the_prior_times_their_gains(gains: tuple[float, float]) -> None:
    mask = available(1)
    pretrained, learned, critic = networks()
    learned.prior_gain.copy_(torch.tensor(gains))
    served = ExactPolicy(pretrained, learned, critic, VARIANTS[2]).serving.distribution(HISTORY, mask)
    np.testing.assert_allclose(served.learned, network_probs(learned, mask, pretrained), atol=1e-6)
    # Of the prior only these count: that it would not bore, at what level, what it builds on and what it knows is its
    # own affair.
    pretrained.leave.add_(5.0)
    pretrained.prior_gain.add_(5.0)
    pretrained.information.add_(5.0)
    again = ExactPolicy(pretrained, learned, critic, VARIANTS[2]).serving.distribution(HISTORY, mask)
    np.testing.assert_array_equal(again.learned, served.learned)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_ap_fixed_is_the_convex_combination(weight: float) -> None:
    mask = available(0, 5)
    pretrained, learned, _ = networks()
    oracle = (1 - weight) * network_probs(pretrained, mask) + weight * network_probs(learned, mask, pretrained)
    served = serve(replace(VARIANTS[2], fixed_weight=weight), mask)
    assert served.weight == weight
    np.testing.assert_allclose(served.probs, oracle, atol=1e-6)


@pytest.mark.parametrize("config", [VARIANTS[1], VARIANTS[3]], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_what_is_learned_gets_no_more_than_its_largest_share(config: ServingConfig, share: float) -> None:
    mask = available(4)
    pretrained, learned, _ = networks()
    if config.variant == Variant.FT:
        learned.prior_gain.zero_()  # it does not build on the pre-trained one
    full = ExactPolicy(pretrained, learned, learned, config)
    trial = ExactPolicy(pretrained, learned, learned, replace(config, most_learned=share))
    whole, served = (policy.serving.distribution(HISTORY, mask) for policy in (full, trial))
    assert served.weight == pytest.approx(min(whole.weight, share))
    oracle = (1 - served.weight) * network_probs(pretrained, mask) + served.weight * whole.learned
    np.testing.assert_allclose(served.probs, oracle, atol=1e-6)
    states = pack_states([HISTORY], 50)
    np.testing.assert_allclose(trial.probabilities(states, mask[np.newaxis])[0], served.probs, atol=1e-6)
    control = trial.serving.distribution(HISTORY, mask, Arm.CONTROL)
    np.testing.assert_allclose(control.probs, network_probs(pretrained, mask), atol=1e-6)


@pytest.mark.parametrize("config", [VARIANTS[1], VARIANTS[3]], ids=str)
def test_new_items_of_which_nothing_is_known_get_their_share_among_themselves(config: ServingConfig) -> None:
    """Items from 5 on are new; 5 and 7 had no answers yet, and 7 is not available."""
    mask = available(7)
    pretrained, learned, _ = networks()
    learned.prior_gain.zero_()
    learned.information.fill_(9.0)
    learned.information[[5, 7]] = 0.0
    plain = ExactPolicy(pretrained, learned, learned, config)
    policy = ExactPolicy(pretrained, learned, learned, replace(config, first_items=5, new_items=0.3))
    before, after = (one.serving.distribution(HISTORY, mask).probs for one in (plain, policy))
    oracle = 0.7 * before
    oracle[5] += 0.3
    np.testing.assert_allclose(after, oracle, atol=1e-6)
    states = pack_states([HISTORY], 50)
    np.testing.assert_allclose(policy.distributions(states, mask[np.newaxis]).probs[0], after, atol=1e-5)
    served = policy.serving
    (few,) = served.serve([Query(HISTORY, mask)], np.array([[0, 2, 5, 6]]))
    assert few.probs[2] > 0.3 and few.probs.sum() == pytest.approx(1)
    # Where all of them are known, or none is available, nothing is set aside; and never for the control.
    without = available(5, 7)
    for query in (Query(HISTORY, without), Query(HISTORY, mask, Arm.CONTROL)):
        one, other = (some.serving.serve([query])[0].probs for some in (plain, policy))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("own_critic", [True, False], ids=["a critic of its own", "learned network as critic"])
@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0])
def test_ap_adaptive_weighs_by_expected_advantage(temperature: float, own_critic: bool) -> None:
    mask = available(4)
    pretrained, learned, critic = networks()
    old, new = network_probs(pretrained, mask), network_probs(learned, mask, pretrained)
    advantage = advantage_by_loop(critic, HISTORY) if own_critic else advantage_by_loop(learned, HISTORY, pretrained)
    # What the learned policy would do without curiosity.
    settled = softmax_by_loop(advantage_by_loop(learned, HISTORY, pretrained) / learned.config.temperature, mask)
    of_old, of_new = (math.fsum(p * x for p, x in zip(probs, advantage, strict=True)) for probs in (old, settled))
    assert abs(of_new - of_old) > 0.02  # or every critic would give even weights
    weight = 1 / (1 + math.exp((of_old - of_new) / temperature))
    config = replace(VARIANTS[3], temperature=temperature)
    policy = ExactPolicy(pretrained, learned, critic if own_critic else learned, config)
    served = policy.serving.distribution(HISTORY, mask)
    assert served.weight == pytest.approx(weight, abs=1e-4)
    np.testing.assert_allclose(served.probs, (1 - weight) * old + weight * new, atol=1e-4)


def test_the_mixture_tells_policies_apart_where_every_probability_of_a_like_is_next_to_nothing() -> None:
    pretrained, learned, _ = networks()
    before = ExactPolicy(pretrained, learned, learned, VARIANTS[3]).serving.distribution((), available())
    learned.level.sub_(200.0)  # sigmoid would be 0 for all items in float32
    after = ExactPolicy(pretrained, learned, learned, VARIANTS[3]).serving.distribution((), available())
    assert abs(before.weight - 0.5) > 0.01
    assert after.weight == pytest.approx(before.weight, abs=1e-3)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_a_share_of_the_adaptive_arm_goes_to_all_items_alike(config: ServingConfig) -> None:
    pretrained, learned, critic = networks()
    mask = available(1, 2)
    plain, bold = (ExactPolicy(pretrained, learned, critic, replace(config, explore=share)) for share in (0.0, 0.25))
    states = pack_states([HISTORY], CONFIG.max_history)
    for arm in Arm:
        before, after = (policy.serving.distribution(HISTORY, mask, arm).probs for policy in (plain, bold))
        frozen = arm == Arm.CONTROL or config.variant == Variant.FROZEN
        expected = before if frozen else 0.75 * before + 0.25 * mask / mask.sum()
        np.testing.assert_allclose(after, expected, atol=1e-12)
        exact = bold.distributions(states, mask[np.newaxis], arm).probs[0]
        np.testing.assert_allclose(after, exact, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
@pytest.mark.parametrize("hidden", [(), (3,), (0, 1, 2, 4, 5, 6, 7)])
def test_probabilities_sum_to_one_over_what_is_available(config: ServingConfig, hidden: tuple[int, ...]) -> None:
    served = serve(config, available(*hidden))
    for probs in (served.probs, served.pretrained, served.learned):
        assert probs.sum() == pytest.approx(1.0)
        assert not probs[list(hidden)].any()
        assert probs.min() >= 0


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_nothing_available_gives_no_probability_and_no_error(config: ServingConfig) -> None:
    served = serve(config, available(*range(ITEMS)))
    assert not served.probs.any()
    assert entropy(served.probs) == 0


@pytest.mark.parametrize("config", VARIANTS[2:4], ids=str)
@pytest.mark.parametrize("start", ["copy", "residual"])
def test_ap_of_equal_policies_is_that_policy(config: ServingConfig, start: str) -> None:
    pretrained, _, critic = networks()
    pretrained.prior_gain.zero_()  # nothing came before it,
    pretrained.information.zero_()  # and it met no users
    learned = pretrained.with_text(pretrained.text) if start == "copy" else pretrained.residual()
    mask = available(7)
    served = ExactPolicy(pretrained, learned, critic, config).serving.distribution(HISTORY, mask)
    for probs in (served.probs, served.learned):
        np.testing.assert_allclose(probs, network_probs(pretrained, mask), atol=1e-6)
    assert served.weight == pytest.approx(config.fixed_weight if config.mixture == Mixture.FIXED else 0.5, abs=1e-5)


def test_sources_name_the_policy_that_contributed_more() -> None:
    distribution = Distribution(
        probs=np.array([0.4375, 0.34375, 0.21875]),
        pretrained=np.array([0.5, 0.25, 0.25]),
        learned=np.array([0.25, 0.625, 0.125]),
        weight=0.25,
    )
    # By weight: 0.375 against 0.0625, 0.1875 against 0.15625, 0.1875 against 0.03125; unweighted, item 1 would differ.
    assert distribution.from_learned(np.array([1, 0])).tolist() == [False, False]
    even = replace(distribution, weight=0.5)
    assert even.from_learned(np.array([1, 0, 2])).tolist() == [True, False, False]
    assert not replace(distribution, learned=distribution.pretrained, weight=0.5).from_learned(np.array([0])).any()


def test_probabilities_of_items_whether_or_not_there_are_candidates() -> None:
    probs = np.array([0.1, 0.6, 0.0, 0.3])
    everything = Distribution(probs, probs, probs, 0.0)
    np.testing.assert_array_equal(everything.probabilities(np.array([3, 1, 3])), [0.3, 0.6, 0.3])
    some = replace(everything, rows=np.array([2, 5, 5, 9]))  # item 5 is there twice, with its mass at the first place
    np.testing.assert_array_equal(some.probabilities(np.array([9, 5, 0, 7, 2, 11])), [0.3, 0.6, 0, 0, 0.1, 0])


def test_entropy_by_hand() -> None:
    probs = np.array([0.5, 0.25, 0.25, 0.0])
    assert entropy(probs) == pytest.approx(1.5 * math.log(2))


def test_the_policy_sees_the_most_recent_history_only() -> None:
    policy = ExactPolicy(*networks(), VARIANTS[3])
    long = liked(0, 1, *range(2, 2 + CONFIG.max_history))
    recent, all_of_it = (policy.serving.distribution(h, available()).probs for h in (long[-CONFIG.max_history :], long))
    np.testing.assert_array_equal(recent, all_of_it)
    shorter = policy.serving.distribution(long[-CONFIG.max_history + 1 :], available()).probs
    assert np.abs(recent - shorter).max() > 1e-4


@pytest.mark.parametrize("config", VARIANTS, ids=str)
@pytest.mark.parametrize("arm", Arm)
def test_many_states_at_once_are_each_as_alone(config: ServingConfig, arm: Arm) -> None:
    rng = np.random.default_rng(64)
    histories = [random_history(rng, n, ITEMS) for n in (0, 1, 3, 5, 7)]
    masks = rng.random((len(histories), ITEMS)) < 0.7
    policy = ExactPolicy(*networks(), config)
    together = policy.distributions(pack_states(histories, CONFIG.max_history), masks, arm)
    for row, (history, mask) in enumerate(zip(histories, masks, strict=True)):
        alone = policy.serving.distribution(history, mask, arm)
        for name in ("probs", "pretrained", "learned"):
            np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name), atol=1e-6)
        assert together.weight[row] == pytest.approx(alone.weight, abs=1e-5)
