"""Learners travel through checkpoints, bit for bit, and catalogues that grow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.policy.policy_examples import as_checkpoint, assert_same_bits
from tests.policy.test_learners import (
    BOLTZMANN_CONFIG,
    GROWN,
    ITEMS,
    LEARNERS,
    ROUNDS,
    TEXT,
    boltzmann,
    identity_reward,
    identity_round,
    learn,
    new_replay,
)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    states = []
    for seed in (45, 45, 46):
        learner = LEARNERS[name](45)
        learn(learner, new_replay(), 50 if name == "a2c" else 13, seed)  # 50 updates, or 52
        states.append(as_checkpoint(learner.state_dict()))
    assert_same_bits(states[0], states[1])
    assert not torch.equal(states[0]["actor.mixing"], states[2]["actor.mixing"])


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_learner_goes_on_bit_for_bit(name: str) -> None:
    learner, replay, generator = LEARNERS[name](47), new_replay(), torch.Generator().manual_seed(48)
    learn(learner, replay, 7, 48, generator)
    saved = as_checkpoint(learner.state_dict()), as_checkpoint(replay.state_dict()), generator.get_state()

    resumed, resumed_replay, resumed_generator = LEARNERS[name](99), new_replay(), torch.Generator()
    resumed.load_state_dict(saved[0])
    resumed_replay.load_state_dict(saved[1])
    resumed_generator.set_state(saved[2])
    assert_same_bits(saved[0], resumed.state_dict())

    learn(learner, replay, 7, 49, generator)
    learn(resumed, resumed_replay, 7, 49, resumed_generator)
    assert_same_bits(learner.state_dict(), resumed.state_dict())
    assert not torch.equal(saved[0]["actor.mixing"], resumed.state_dict()["actor.mixing"])


def test_boltzmann_carries_the_fraction_of_a_step_over() -> None:
    learner, replay = boltzmann(50, config=replace(BOLTZMANN_CONFIG, updates_per_transition=0.4)), new_replay()
    for transition in identity_round(learner.actor, np.random.default_rng(51)):
        replay.add(transition)
    generator = torch.Generator().manual_seed(51)
    steps = [bool(learner.update(replay, 1, generator)) for _ in range(3)]
    resumed = boltzmann(52, config=learner.config)
    resumed.load_state_dict(as_checkpoint(learner.state_dict()))
    steps += [bool(resumed.update(replay, 1, generator)) for _ in range(2)]
    assert steps == [False, False, True, False, True]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_grown_catalogue_keeps_the_optimiser_and_learning_goes_on(name: str) -> None:
    learner = LEARNERS[name](53)
    learn(learner, new_replay(), 8, seed=54)
    before = as_checkpoint(learner.state_dict())
    learner.grow(TEXT)
    after = learner.state_dict()
    assert before.keys() == after.keys()
    for key, old in before.items():
        new = after[key]
        if new.shape == old.shape:
            assert torch.equal(new, old), key
        else:
            assert (len(old), len(new)) == (ITEMS, GROWN)
            assert torch.equal(new[:ITEMS], old), key
            assert not new[ITEMS:].any(), key
    assert any(key.startswith("optimizer") and tensor.ndim and tensor.any() for key, tensor in after.items())
    learn(learner, new_replay(), ROUNDS[name], seed=55)
    assert identity_reward(learner.actor) > 0.85
