"""The fast path of a request against the networks' own arithmetic, in every variant, and the rows that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_examples import random_scorer, random_text

from service.policy import single_state
from service.policy.adaptive import Arm, Mixture, ServingConfig, ServingPolicy, Variant
from service.policy.networks import N_LATEST, ItemScorer, NetworkConfig
from service.policy.types import Interaction, Response, pack_states

ITEMS = 300
CONFIG = NetworkConfig(dim=32, text_dim=32, max_history=30)  # as deployed, but narrower
VARIANTS = [
    ServingConfig(Variant.FROZEN),
    ServingConfig(Variant.FT),
    ServingConfig(Variant.AP, Mixture.FIXED, fixed_weight=0.3),
    ServingConfig(Variant.AP, Mixture.ADAPTIVE, temperature=0.05),
]
PAST = st.builds(Interaction, st.integers(0, ITEMS - 1), st.sampled_from([r for r in Response if r != Response.PAD]))


def networks(config: NetworkConfig, residual: bool) -> tuple[ItemScorer, ItemScorer, ItemScorer]:
    """Pre-trained, learned and a critic of its own; learned builds on pre-trained, as boltzmann's does, or not."""
    rng = np.random.default_rng(11)
    text = random_text(rng, ITEMS, config.text_dim)
    pretrained, other, critic = (random_scorer(rng, text, config, scale=0.2).requires_grad_(False) for _ in range(3))
    learned = pretrained.residual().requires_grad_(False) if residual else other
    learned.level.add_(0.3)
    learned.information.copy_(other.information)
    return pretrained, learned, critic


def assert_alike(policy: ServingPolicy, history: list[Interaction], mask: np.ndarray, arm: Arm) -> None:
    states = pack_states([history], max(1, min(len(history), policy.max_history)))
    batch = policy.distributions(states, mask[np.newaxis], arm)
    alone = policy.distribution(history, mask, arm)
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
    policy = ServingPolicy(pretrained, learned, critic if own_critic else learned, config)

    @settings(max_examples=25, deadline=None)
    @given(history=st.lists(PAST, max_size=45), seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    def alike(history: list[Interaction], seed: int, share: float) -> None:
        mask = np.random.default_rng(seed).random(ITEMS) < share
        for arm in Arm:
            assert_alike(policy, history, mask, arm)

    alike()


@pytest.mark.parametrize("changes", [{"curiosity": 0.0}, {"curiosity": 0.9, "optimism": 9.0}, {"temperature": 2.0}])
def test_so_is_every_actor(changes: dict[str, float]) -> None:
    config = NetworkConfig(dim=32, text_dim=32, **changes)
    policy = ServingPolicy(*networks(config, residual=True), VARIANTS[3])
    history = [Interaction(item, Response(1 + item % 3)) for item in range(20)]
    assert_alike(policy, history, np.ones(ITEMS, np.bool_), Arm.ADAPTIVE)


def test_a_policy_that_knows_nothing_of_its_items_is_not_curious() -> None:
    pretrained, learned, critic = networks(CONFIG, residual=True)
    learned.information.zero_()
    policy = ServingPolicy(pretrained, learned, critic, VARIANTS[3])
    assert_alike(policy, [], np.ones(ITEMS, np.bool_), Arm.ADAPTIVE)


def test_rows_are_dropped_and_come_back_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one session's rows alone, each session pushes out those of the one before."""
    monkeypatch.setattr(single_state, "_KEPT_BYTES", 0)
    pretrained, learned, critic = networks(CONFIG, residual=True)
    policy = ServingPolicy(pretrained, learned, critic, VARIANTS[3])
    scorer = policy._single_learned
    rng = np.random.default_rng(12)
    known = set()
    for _ in range(40):
        history = [Interaction(int(item), Response.IGNORED) for item in rng.integers(0, 40, size=rng.integers(1, 25))]
        assert_alike(policy, history, np.ones(ITEMS, np.bool_), Arm.ADAPTIVE)
        known |= set(scorer._row_of)
        assert len(scorer._row_of) <= N_LATEST and len(set(scorer._row_of.values())) == len(scorer._row_of)
    assert len(known) > 2 * N_LATEST
    directions = learned.table().directions
    for item, row in scorer._row_of.items():
        expected = (directions @ directions[item]).clamp_min(0.0)
        np.testing.assert_allclose(scorer._rows[row], expected.numpy(), atol=1e-6)


def test_a_catalogue_smaller_than_a_session_is_served() -> None:
    rng = np.random.default_rng(13)
    scorer = random_scorer(rng, random_text(rng, 3, 32), CONFIG).requires_grad_(False)
    policy = ServingPolicy(scorer, scorer, scorer, VARIANTS[1])
    history = [Interaction(item % 3, Response.POSITIVE) for item in range(20)]
    assert_alike(policy, history, np.array([True, True, False]), Arm.ADAPTIVE)


def test_latest_items_are_those_of_the_networks() -> None:
    rng = np.random.default_rng(14)
    scorer = random_scorer(rng, random_text(rng, ITEMS, 32), CONFIG).requires_grad_(False)
    for _ in range(50):
        length = int(rng.integers(1, 31))
        history = [Interaction(int(i), Response(int(rng.integers(1, 4)))) for i in rng.integers(0, ITEMS, size=length)]
        encoded = scorer.encode(pack_states([history], length), scorer.table())
        expected = encoded.latest[0][encoded.is_latest[0]].tolist()
        assert sorted(single_state.latest_items(history)) == sorted(expected)


def test_what_is_far_from_the_best_keeps_its_chance() -> None:
    """Log odds of 15 at a temperature of 0.1 are a probability of e^-150: float32 would call it 0, and a slate end."""
    pretrained, learned, critic = networks(CONFIG, residual=True)
    pretrained.id_bias[7] += 15.0
    policy = ServingPolicy(pretrained, learned, critic, VARIANTS[2])
    assert_alike(policy, [], np.ones(ITEMS, np.bool_), Arm.CONTROL)
    alone = policy.distribution([], np.ones(ITEMS, np.bool_), Arm.CONTROL)
    batch = policy.distributions(pack_states([[]], 1), np.ones((1, ITEMS), np.bool_), Arm.CONTROL)
    assert alone.probs.min() < 1e-40
    np.testing.assert_allclose(np.log(alone.probs), np.log(batch.probs[0]), atol=1e-3)


def test_softmax_and_sigmoid_at_their_ends() -> None:
    huge = np.array([3e38, 3e38, -np.inf], np.float32)
    assert single_state.softmax(huge).tolist() == [0.5, 0.5, 0.0]
    assert single_state.softmax(np.full(2, -np.inf, np.float32)).tolist() == [0.0, 0.0]
    assert single_state.sigmoid(np.array([-1e4, 0.0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]
    assert torch.sigmoid(torch.tensor(0.3)).item() == pytest.approx(single_state.sigmoid(np.float32([0.3]))[0])
