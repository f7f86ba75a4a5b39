"""The fast path of a request against the networks' own arithmetic, in every variant, and the candidates it may take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.policy import fast_scorer
from service.policy.adaptive import Query
from service.policy.exact_policy import ExactPolicy
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.sampling import slate_propensities
from service.policy.types import Interaction, Response, pack_states, unpack_states
from service.policy.variants import Arm, Mixture, ServingConfig, Variant
from tests.policy.policy_examples import RESPONSES, random_response, random_scorer, random_text

ITEMS = 300
CONFIG = NetworkConfig(dim=32, text_dim=32)  # as deployed, but narrower
VARIANTS = [
    ServingConfig(Variant.FROZEN),
    ServingConfig(Variant.FT),
    ServingConfig(Variant.AP, Mixture.FIXED, fixed_weight=0.3),
    ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=0.05),
]
PAST = st.builds(Interaction, st.integers(0, ITEMS - 1), st.sampled_from(RESPONSES))
Mask = npt.NDArray[np.bool_]


def networks(config: NetworkConfig, residual: bool) -> tuple[ItemScorer, ItemScorer, ItemScorer]:
    """Pre-trained, learned and a critic of its own; learned builds on pre-trained, as boltzmann's does, or not."""
    rng = np.random.default_rng(11)
    text = random_text(rng, ITEMS, config.text_dim)
    pretrained, other, critic = (random_scorer(rng, text, config, scale=0.2).requires_grad_(False) for _ in range(3))
    learned = pretrained.residual().requires_grad_(False) if residual else other
    learned.level.add_(0.3)
    learned.information.copy_(other.information)
    return pretrained, learned, critic


def assert_alike(policy: ExactPolicy, history: list[Interaction], mask: Mask, arm: Arm) -> None:
    states = pack_states([history], max(1, min(len(history), policy.max_history)))
    batch = policy.distributions(states, mask[np.newaxis], arm)
    alone = policy.serving.distribution(history, mask, arm)
    for name in ("probs", "pretrained", "learned"):
        np.testing.assert_allclose(getattr(alone, name), getattr(batch, name)[0], atol=1e-5, rtol=1e-4, err_msg=name)
        np.testing.assert_array_equal(getattr(alone, name) > 0, getattr(batch, name)[0] > 0, err_msg=name)
        assert not getattr(alone, name)[~mask].any()
    assert alone.weight == pytest.approx(float(batch.weight[0]), abs=1e-4)
    if mask.any():
        assert alone.probs.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("own_critic", [False, True], ids=["its own critic", "a second critic"])
@pytest.mark.parametrize("residual", [False, True], ids=["on its own", "on the pre-trained"])
@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_every_variant_is_as_the_networks_say(config: ServingConfig, residual: bool, own_critic: bool) -> None:
    pretrained, learned, critic = networks(CONFIG, residual)
    policy = ExactPolicy(pretrained, learned, critic if own_critic else learned, config)

    @settings(max_examples=25, deadline=None)
    @given(history=st.lists(PAST, max_size=65), seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    def alike(history: list[Interaction], seed: int, share: float) -> None:
        mask = np.random.default_rng(seed).random(ITEMS) < share
        for arm in Arm:
            assert_alike(policy, history, mask, arm)

    alike()


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(dim=32, text_dim=32, curiosity=0.0),
        NetworkConfig(dim=32, text_dim=32, curiosity=0.9, optimism=9.0),
        NetworkConfig(dim=32, text_dim=32, temperature=2.0),
    ],
    ids=["nothing", "everything", "temperature"],
)
def test_so_is_every_actor(config: NetworkConfig) -> None:
    policy = ExactPolicy(*networks(config, residual=True), VARIANTS[3])
    history = [Interaction(item, RESPONSES[item % len(RESPONSES)]) for item in range(20)]
    assert_alike(policy, history, np.ones(ITEMS, np.bool_), Arm.ADAPTIVE)


def test_a_policy_that_knows_nothing_of_its_items_is_not_curious() -> None:
    pretrained, learned, critic = networks(CONFIG, residual=True)
    learned.information.zero_()
    policy = ExactPolicy(pretrained, learned, critic, VARIANTS[3])
    assert_alike(policy, [], np.ones(ITEMS, np.bool_), Arm.ADAPTIVE)


def test_a_catalogue_smaller_than_a_session_is_served() -> None:
    rng = np.random.default_rng(13)
    scorer = random_scorer(rng, random_text(rng, 3, 32), CONFIG).requires_grad_(False)
    policy = ExactPolicy(scorer, scorer, scorer, VARIANTS[1])
    history = [Interaction(item % 3, Response.POSITIVE) for item in range(20)]
    assert_alike(policy, history, np.array([True, True, False]), Arm.ADAPTIVE)


def test_latest_items_are_those_of_the_networks() -> None:
    rng = np.random.default_rng(14)
    scorer = random_scorer(rng, random_text(rng, ITEMS, 32), CONFIG).requires_grad_(False)
    for _ in range(50):
        length = int(rng.integers(1, 51))
        history = [Interaction(int(i), random_response(rng)) for i in rng.integers(0, ITEMS, size=length)]
        encoded = scorer.encode(pack_states([history], length), scorer.table())
        there = encoded.weight[0] > 0
        kinds = [fast_scorer.LIKED if liked else fast_scorer.IN_VAIN for liked in encoded.was_liked[0][there].tolist()]
        expected = list(zip(encoded.latest[0][there].tolist(), kinds, encoded.weight[0][there].tolist(), strict=True))
        assert sorted(fast_scorer.latest_items(history)) == sorted(expected)


def some_queries(seed: int, n: int) -> list[Query]:
    """States of all lengths in both arms, with some items seen."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        items = rng.permutation(ITEMS)[: rng.integers(0, 65)]
        mask = np.ones(ITEMS, np.bool_)
        mask[items] = False
        history = [Interaction(int(item), random_response(rng)) for item in items]
        made.append(Query(history, mask, Arm.CONTROL if number % 3 == 0 else Arm.ADAPTIVE))
    return made


@pytest.mark.parametrize("candidates", [512, 30], ids=["all items", "candidates"])
def test_together_is_as_one_by_one(candidates: int) -> None:
    policy = ExactPolicy(*networks(CONFIG, residual=True), replace(VARIANTS[3], candidates=candidates))
    asked = some_queries(15, 17)
    for query, together in zip(asked, policy.serving.serve(asked), strict=True):
        alone = policy.serving.distribution(*query)
        np.testing.assert_allclose(together.of_all(ITEMS).probs, alone.probs, atol=1e-5, rtol=1e-4)
        assert together.weight == pytest.approx(alone.weight, abs=1e-4)
    assert policy.serving.serve([]) == []


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_among_candidates_probabilities_are_exact(config: ServingConfig) -> None:
    """They are those of the networks with all other items away, and nobody else has any."""
    policy = ExactPolicy(*networks(CONFIG, residual=True), replace(config, candidates=30))
    for query, served in zip(some_queries(16, 12), policy.serving.serve(some_queries(16, 12)), strict=True):
        assert served.rows is not None and len(served.rows) == len(served.probs) == 30
        mask = np.zeros(ITEMS, np.bool_)
        mask[served.rows] = True
        states = pack_states([query.history], policy.max_history)
        exact = policy.distributions(states, mask[np.newaxis], query.arm)
        full = served.of_all(ITEMS)
        for name in ("probs", "pretrained", "learned"):
            np.testing.assert_allclose(getattr(full, name), getattr(exact, name)[0], atol=1e-5, rtol=1e-4)
        assert served.probs.sum() == pytest.approx(1.0) and not full.probs[~query.available].any()
        items = served.items(np.arange(30))
        np.testing.assert_array_equal(served.probs, full.probs[items])
        shown = np.array([items[3], 0, items[7], ITEMS - 1, items[0]])
        np.testing.assert_allclose(served.propensities(shown), slate_propensities(full.probs, shown))


@pytest.mark.parametrize("candidates", [512, 30])
def test_what_evaluation_is_told_is_what_is_served(candidates: int) -> None:
    policy = ExactPolicy(*networks(CONFIG, residual=True), replace(VARIANTS[3], candidates=candidates))
    assert policy.serving.is_narrowed == (candidates == 30)
    asked = some_queries(18, 9)
    for arm in Arm:
        queries = [query._replace(arm=arm) for query in asked]
        states = pack_states([query.history for query in queries], policy.max_history)
        told = policy.probabilities(states, np.array([query.available for query in queries]), arm)
        for row, served in zip(told, policy.serving.serve(queries), strict=True):
            np.testing.assert_allclose(row, served.of_all(ITEMS).probs, atol=1e-5, rtol=1e-4)


def test_histories_come_back_from_states() -> None:
    histories = [list(query.history[-50:]) for query in some_queries(19, 9)]
    assert unpack_states(pack_states(histories, 50)) == histories


def test_candidates_are_the_first_ones_of_every_view() -> None:
    """A user without a session has no closeness: so the best of each policy, and the least known, are among them."""
    pretrained, learned, critic = networks(CONFIG, residual=True)
    pretrained.information.zero_()
    learned.id_bias.copy_(torch.from_numpy(np.random.default_rng(17).normal(0, 2.0, ITEMS)))
    policy = ExactPolicy(pretrained, learned, critic, replace(VARIANTS[2], candidates=30))
    served = policy.serving.serve([Query((), np.ones(ITEMS, np.bool_))])[0]
    exact = policy.distributions(pack_states([[]], 1), np.ones((1, ITEMS), np.bool_))
    assert served.rows is not None
    for wanted in (exact.learned[0], exact.pretrained[0]):
        assert set(np.argsort(wanted)[-8:]) <= set(served.rows.tolist())


def test_with_fewer_available_items_than_candidates_all_of_them_are_served() -> None:
    policy = ExactPolicy(*networks(CONFIG, residual=True), replace(VARIANTS[3], candidates=30))
    for n in (0, 1, 7, 29, 30):
        mask = np.zeros(ITEMS, np.bool_)
        mask[np.random.default_rng(n).permutation(ITEMS)[:n]] = True
        served = policy.serving.distribution([Interaction(3, Response.POSITIVE)], mask)
        np.testing.assert_array_equal(served.probs > 0, mask)
        exact = policy.distributions(pack_states([[Interaction(3, Response.POSITIVE)]], 1), mask[np.newaxis])
        np.testing.assert_allclose(served.probs, exact.probs[0], atol=1e-5, rtol=1e-4)


def test_what_is_far_from_the_best_keeps_its_chance() -> None:
    """Log odds of 15 at a temperature of 0.1 are a probability of e^-150: float32 would call it 0, and a slate end."""
    pretrained, learned, critic = networks(CONFIG, residual=True)
    pretrained.id_bias[7] += 15.0
    policy = ExactPolicy(pretrained, learned, critic, VARIANTS[2])
    assert_alike(policy, [], np.ones(ITEMS, np.bool_), Arm.CONTROL)
    alone = policy.serving.distribution([], np.ones(ITEMS, np.bool_), Arm.CONTROL)
    batch = policy.distributions(pack_states([[]], 1), np.ones((1, ITEMS), np.bool_), Arm.CONTROL)
    assert alone.probs.min() < 1e-40
    np.testing.assert_allclose(np.log(alone.probs), np.log(batch.probs[0]), atol=1e-3)


def test_softmax_and_sigmoid_at_their_ends() -> None:
    huge = np.array([[3e38, 3e38, -np.inf], [-np.inf] * 3], np.float32)
    assert fast_scorer.softmax(huge).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert fast_scorer.sigmoid(np.array([-1e4, 0.0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]
    assert torch.sigmoid(torch.tensor(0.3)).item() == pytest.approx(fast_scorer.sigmoid(np.array([0.3], np.float32))[0])
