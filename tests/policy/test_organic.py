"""Likes without an impression teach what is liked and by whom, and nothing that only impressions can tell."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.networks import ItemScorer
from service.policy.organic import (
    N_OTHERS,
    TRUST,
    against_others,
    centred,
    organic_batch,
    organic_transition,
    trust,
    with_others,
)
from service.policy.posterior import Posterior
from service.policy.replay import Replay
from service.policy.types import EMPTY_SLOT, Batch, Interaction, pack_states
from tests.policy.policy_examples import WIDE, fresh_scorer, liked, orthogonal_text, random_text

ITEMS = 25
History = tuple[Interaction, ...]


def learner(text: torch.Tensor) -> Boltzmann:
    return Boltzmann(fresh_scorer(3, text, WIDE).requires_grad_(True), BoltzmannConfig())


def likes(histories: list[History], items: list[int]) -> Batch:
    return organic_batch(histories, items, WIDE.max_history)


def beside_others(batch: Batch, seed: int = 0) -> Batch:
    return with_others(batch, ITEMS, torch.Generator().manual_seed(seed))


def take(boltzmann: Boltzmann, batch: Batch) -> None:
    replay = Replay(1_000, WIDE.max_history, 1)
    replay.extend(batch)
    boltzmann.update(replay, len(batch.discount), torch.Generator().manual_seed(0))


def test_a_like_stands_beside_other_items_drawn_uniformly() -> None:
    batch = beside_others(likes([liked(7, 9)] * 500, [4] * 500))
    assert batch.actions[:, 0].eq(4).all() and batch.rewards[:, 0].eq(1).all() and batch.rewards[:, 1:].eq(0).all()
    others = batch.actions[:, 1:]
    assert others.shape == (500, N_OTHERS) and batch.propensities.shape == batch.actions.shape
    drawn = torch.bincount(others[others != EMPTY_SLOT], minlength=ITEMS).double()
    assert not drawn[[4, 7, 9]].any(), "what the user likes is not there as something that they do not"
    expected = 500 * N_OTHERS / ITEMS
    assert ((drawn - expected).abs() < 5 * expected**0.5)[
        torch.tensor([i not in (4, 7, 9) for i in range(ITEMS)])
    ].all()


def test_others_are_drawn_anew_and_only_beside_likes() -> None:
    batch = likes([(), ()], [1, 2])._replace(organic=torch.tensor([True, False]))
    first, again, other = beside_others(batch), beside_others(batch), beside_others(batch, 1)
    assert torch.equal(first.actions, again.actions) and not torch.equal(first.actions, other.actions)
    assert first.actions[1].tolist() == [2] + [EMPTY_SLOT] * N_OTHERS
    impressions = batch._replace(organic=None)
    assert beside_others(impressions) is impressions
    emptied = beside_others(batch._replace(actions=torch.full((2, 1), EMPTY_SLOT)))
    assert emptied.actions.eq(EMPTY_SLOT).all(), "of an erased user nothing is left"


def test_a_transition_is_what_a_batch_of_one_is() -> None:
    replay = Replay(1, WIDE.max_history, 1)
    replay.add(organic_transition(liked(2, 7), 4))
    for ours, theirs in zip(replay.latest(1), likes([liked(2, 7)], [4]), strict=True):
        for one, other in zip(*(part if isinstance(part, tuple) else (part,) for part in (ours, theirs)), strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_a_like_is_a_full_response_whatever_rewards_are_worth() -> None:
    text = random_text(np.random.default_rng(1), ITEMS, WIDE.text_dim)
    losses = []
    for scale in (1.0, 5.0):
        network = fresh_scorer(3, text, WIDE).requires_grad_(True)
        losses.append(
            Boltzmann(network, BoltzmannConfig(reward_scale=scale)).loss(beside_others(likes([()] * 5, [1] * 5))).item()
        )
    assert losses[0] == losses[1]


def test_rows_count_by_their_source() -> None:
    batch = likes([(), ()], [1, 2])
    assert trust(batch).tolist() == [[pytest.approx(TRUST)]] * 2
    assert trust(batch._replace(organic=torch.tensor([True, False]))).flatten().tolist() == pytest.approx([TRUST, 1.0])
    assert trust(batch._replace(organic=None)).tolist() == [[1.0]] * 2


def test_the_replay_knows_which_rows_are_organic() -> None:
    replay = Replay(8, WIDE.max_history, 1)
    replay.extend(likes([(), ()], [1, 2]))
    replay.extend(likes([()], [3])._replace(organic=None))
    organic = replay.latest(3).organic
    assert organic is not None and organic.tolist() == [True, True, False]
    assert replay.latest(1).organic is None
    other = Replay(8, WIDE.max_history, 1)
    other.load_state_dict(replay.state_dict())
    loaded = other.latest(3).organic
    assert loaded is not None and loaded.tolist() == [True, True, False]


def test_a_like_stands_against_all_that_were_drawn() -> None:
    response = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    actions = torch.tensor([[1, 2, 3, 4], [1, 2, EMPTY_SLOT, 4], [1, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT]])
    rewards = torch.tensor([[1.0, 0, 0, 0]] * 3)
    batch = likes([()] * 3, [1] * 3)._replace(actions=actions, rewards=rewards)
    logit = against_others(response, batch)
    for row in (0, 1):
        among = torch.softmax(response[row][actions[row] != EMPTY_SLOT], 0)
        torch.testing.assert_close(torch.sigmoid(logit[row, 0]), among[0])
        assert torch.sigmoid(logit[row, 1:])[actions[row, 1:] != EMPTY_SLOT].sum() < 1
    torch.testing.assert_close(against_others(response + 5.0, batch)[:2], logit[:2], msg="a level tells nothing")
    (slope,) = torch.autograd.grad(torch.nn.functional.softplus(-logit[:, 0]).sum(), response)
    torch.testing.assert_close(slope[0], torch.softmax(response.detach()[0], 0) - rewards[0])
    assert not slope[2].any(), "nothing is learned of a like beside nothing"


def test_features_of_a_row_say_how_items_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    response, features = torch.randn(2, 4, generator=generator), torch.randn(2, 4, 3, generator=generator)
    shown = torch.tensor([[True, True, True, True], [True, False, False, False]])
    compared = centred(features, response, shown)
    likely = torch.softmax(response[0], 0)
    torch.testing.assert_close(likely @ compared[0], torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(compared, centred(features + 3.0, response, shown), atol=1e-5, rtol=0)
    assert not compared[1, 0].any()


def test_level_and_ends_are_left_to_impressions() -> None:
    boltzmann = learner(random_text(np.random.default_rng(1), ITEMS, WIDE.text_dim))
    before = {name: tensor.clone() for name, tensor in boltzmann.actor.state_dict().items()}
    take(boltzmann, likes([(), liked(2), liked(1, 3)] * 20, [1, 2, 5] * 20))
    after = boltzmann.actor.state_dict()
    assert torch.equal(after["level"], before["level"]) and torch.equal(after["leave"], before["leave"])
    assert boltzmann.hazard.counts.sum() == 0
    assert not torch.equal(after["id_bias"], before["id_bias"])


def test_what_is_liked_more_often_is_liked_more_and_by_whom_is_learned() -> None:
    rng = np.random.default_rng(5)
    boltzmann = learner(orthogonal_text(rng, WIDE.text_dim))
    # Items 0 to 4 are liked four times as often as 5 to 9; who liked an even one likes even ones.
    histories: list[History] = []
    items: list[int] = []
    for _ in range(600):
        parity = int(rng.integers(2))
        own = [i for i in range(10) if i % 2 == parity]
        weights = np.array([4.0 if i < 5 else 1.0 for i in own])
        first, second = rng.choice(own, size=2, replace=False, p=weights / weights.sum()).tolist()
        histories += [(), liked(first)]
        items += [first, second]
    for start in range(0, len(items), 100):
        take(boltzmann, likes(histories[start : start + 100], items[start : start + 100]))
    actor = boltzmann.actor
    with torch.no_grad():
        stranger, of_even = actor.scores(pack_states([(), liked(0)], WIDE.max_history), actor.table())
    assert stranger[:5].mean() > stranger[5:10].mean() > stranger[10:].mean()
    assert of_even[[2, 4, 6, 8]].mean() - of_even[[1, 3, 5, 7, 9]].mean() > 0.5


def test_a_row_of_trust_two_teaches_as_two_rows_do() -> None:
    rng = np.random.default_rng(7)
    text = random_text(rng, ITEMS, WIDE.text_dim)
    network = fresh_scorer(3, text, WIDE).requires_grad_(False)
    n_weights = sum(len(part) for part in network.linear_weights())
    features, wanted = torch.from_numpy(rng.normal(size=(6, n_weights))).float(), torch.tensor([1.0, 0, 0, 1, 0, 0])
    items, response = torch.tensor([0, 1, 2, 0, 3, 4]), torch.full((6,), -4.0)
    nets: list[ItemScorer] = []
    for repeated in (False, True):
        net = deepcopy(network)
        rows = torch.arange(6).repeat(2) if repeated else torch.arange(6)
        weights = None if repeated else torch.full((6,), 2.0)
        Posterior(net).update(net, features[rows], items[rows], response[rows], wanted[rows], weights)
        nets.append(net)
    for name, tensor in nets[0].state_dict().items():
        torch.testing.assert_close(tensor, nets[1].state_dict()[name], atol=1e-5, rtol=1e-4)
