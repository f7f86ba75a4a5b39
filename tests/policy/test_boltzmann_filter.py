"""The learner filters each new slot once, by what the network and its prior say."""

from __future__ import annotations

import numpy as np
import torch

from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.networks import N_LEADING
from service.policy.posterior import Posterior
from service.policy.replay import Replay
from service.policy.types import Transition, pack_states
from tests.policy.network_loops import response_by_loop
from tests.policy.policy_examples import WIDE, liked, random_scorer
from tests.policy.test_posterior import SLOTS, network, precision, weights


def replay_of(*slates: tuple[tuple[int, ...], tuple[float, ...]]) -> Replay:
    """Slates of one user who liked items 0 and 1."""
    replay = Replay(50, WIDE.max_history, SLOTS)
    for items, rewards in slates:
        replay.add(Transition(liked(0, 1), items, rewards, (0.5,) * len(items), 0.5, liked(0, 1)))
    return replay


def test_boltzmann_takes_each_new_slot_once_and_no_old_or_empty_one() -> None:
    rng = np.random.default_rng(90)
    scorer = network(rng)
    scorer.information.zero_()
    learner = Boltzmann(scorer, BoltzmannConfig(updates_per_transition=0.0))
    replay = replay_of(((2, 3, 4), (1.0, 0.0, 0.0)), ((5, 6), (0.0, 1.0)), ((5,), (1.0,)))
    generator = torch.Generator().manual_seed(90)
    learner.update(replay, 2, generator)
    assert scorer.information.nonzero().flatten().tolist() == [5, 6]
    information, mode = scorer.information.clone(), weights(scorer)
    learner.update(replay, 0, generator)  # nothing new
    assert torch.equal(scorer.information, information) and np.array_equal(weights(scorer), mode)


def test_boltzmann_filters_what_the_network_and_its_prior_say() -> None:
    rng = np.random.default_rng(91)
    scorer = network(rng)
    prior = random_scorer(rng, scorer.text, WIDE, scale=0.3).requires_grad_(False)
    by_hand = scorer.with_text(scorer.text).requires_grad_(False)
    by_hand.information.zero_()
    posterior = Posterior(by_hand)
    learner = Boltzmann(scorer, BoltzmannConfig(updates_per_transition=0.0, reward_scale=2.0), prior)
    learner.update(replay_of(((2, 3), (1.0, 4.0)), ((7,), (-1.0,))), 2, torch.Generator().manual_seed(91))
    states, actions = pack_states([liked(0, 1)], WIDE.max_history), torch.tensor([[2, 3, 7]])
    table = by_hand.table()
    encoded = by_hand.encode(states, table, prior.table().bias)
    known = prior.as_prior(states, prior.table(), actions)
    close = by_hand.closeness(encoded, table, actions)
    features = by_hand.linear_features(encoded, table, close, actions, known)
    f = torch.from_numpy(response_by_loop(by_hand, liked(0, 1), prior))[actions[0]]
    # The dislike takes half a full response away: it counts as that much over the probability of a like, and once more.
    counts = torch.tensor([1.0, 1.0, 1 + 0.5 / max(torch.sigmoid(f[2]).item(), 0.02)])
    posterior.update(by_hand, features[0], actions[0], f, torch.tensor([0.5, 1.0, 0.0]), counts)
    np.testing.assert_allclose(weights(scorer), weights(by_hand), atol=1e-5)
    np.testing.assert_allclose(precision(learner.posterior, scorer), precision(posterior, by_hand), atol=1e-5)


def test_boltzmanns_gradient_steps_leave_to_the_filter_what_is_the_filters() -> None:
    rng = np.random.default_rng(92)
    scorer = network(rng).requires_grad_(True)
    learner = Boltzmann(scorer, BoltzmannConfig(weight_decay=0.1))
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    learner.step(replay_of(((2, 3, 4), (1.0, 0.0, 0.0)), ((5, 6), (0.0, 1.0))).latest(2), 2)
    after = learner.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    gradients = ("id_vectors", "mixing", "project.weight", "taste_id", "taste_text.weight", "taste_level")
    assert changed == {f"actor.{name}" for name in gradients}
    old, new = (state["actor.mixing"][0].diagonal()[:N_LEADING] for state in (before, after))
    assert torch.equal(old, new)
