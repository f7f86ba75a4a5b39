"""Every learner learns tiny tasks from scratch, and resumes and grows without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from policy_examples import fresh_scorer, liked, orthogonal_text, random_scorer
from safetensors.torch import load, save
from torch import Tensor

from service.policy import losses
from service.policy.a2c import A2C, A2CConfig
from service.policy.learner import Learner
from service.policy.mac import MAC, MACConfig
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.replay import Replay
from service.policy.sampling import sample_slate
from service.policy.types import Interaction, Transition, pack_states

ITEMS, TEXT_DIM, SLOTS, ROUND = 8, 10, 2, 64
NETWORK = NetworkConfig(dim=16, text_dim=TEXT_DIM, max_history=2)
TEXT = orthogonal_text(np.random.default_rng(40), TEXT_DIM)
MAC_CONFIG = MACConfig(
    actor_learning_rate=0.003,
    critic_learning_rate=0.01,
    batch_size=64,
    updates_per_transition=1 / 16,
    target_entropy=0.1,
    alpha_init=0.3,
    alpha_learning_rate=0.01,
)
A2C_CONFIG = A2CConfig(learning_rate=0.01, entropy_weight=0.03, batch_size=64)

History = tuple[Interaction, ...]
Probs = npt.NDArray[np.float64]


def mac(seed: int, n_items: int = ITEMS, config: MACConfig = MAC_CONFIG, anchor: ItemScorer | None = None) -> MAC:
    text = TEXT[:n_items]
    return MAC(fresh_scorer(seed, text, NETWORK), fresh_scorer(seed + 1, text, NETWORK), config, anchor)


def a2c(seed: int, n_items: int = ITEMS) -> A2C:
    text = TEXT[:n_items]
    return A2C(fresh_scorer(seed, text, NETWORK), fresh_scorer(seed + 1, text, NETWORK), A2C_CONFIG)


LEARNERS: dict[str, Callable[[int], Learner]] = {"a2c": a2c, "mac": mac}


@torch.inference_mode()
def policy(actor: ItemScorer, histories: Sequence[History]) -> Probs:
    """What the actor would show [B, A]."""
    states = pack_states(histories, NETWORK.max_history)
    logits = losses.mask_history(actor(states), states).double()
    return np.asarray(torch.softmax(logits, dim=1).numpy())


def identity_round(actor: ItemScorer, rng: np.random.Generator) -> list[Transition]:
    """The identity task: after item i the user wants item i + 1, whatever else is shown; each session is one slate."""
    wanted_after = rng.integers(actor.n_items, size=ROUND)
    histories = [liked(int(i)) for i in wanted_after]
    transitions = []
    for i, history, probs in zip(wanted_after, histories, policy(actor, histories), strict=True):
        slate = sample_slate(probs, SLOTS, rng)
        rewards = tuple(float(a == (i + 1) % actor.n_items) for a in slate.items)
        actions, propensities = tuple(slate.items.tolist()), tuple(slate.propensities.tolist())
        transitions.append(Transition(history, actions, rewards, propensities, 0.0, history))
    return transitions


def learn(learner: Learner, replay: Replay, rounds: int, seed: int, generator: torch.Generator | None = None) -> None:
    """Act with the current policy, then learn, `rounds` times."""
    rng, generator = np.random.default_rng(seed), generator or torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        for transition in identity_round(learner.actor, rng):
            replay.add(transition)
        learner.update(replay, ROUND, generator)


def identity_reward(actor: ItemScorer) -> float:
    """Expected reward of slot 0 over all states, without sampling."""
    probs = policy(actor, [liked(i) for i in range(actor.n_items)])
    return float(np.mean([probs[i, (i + 1) % actor.n_items] for i in range(actor.n_items)]))


def new_replay() -> Replay:
    return Replay(2000, NETWORK.max_history, SLOTS)


# About half of these rounds suffice.
ROUNDS = {"a2c": 120, "mac": 60}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_identity_task_is_learned_from_scratch(name: str) -> None:
    learner = LEARNERS[name](41)
    assert identity_reward(learner.actor) == pytest.approx(1 / (ITEMS - 1), abs=0.02)
    learn(learner, new_replay(), ROUNDS[name], seed=42)
    assert identity_reward(learner.actor) > 0.9


def two_step_sessions(actor: ItemScorer, rng: np.random.Generator, gamma: float) -> list[Transition]:
    """Item 0 opens; only if item 1 is shown next does the item after that, whichever it is, earn 1."""
    opened = policy(actor, [liked(0)])[0]
    firsts = [sample_slate(opened, 1, rng) for _ in range(16)]
    between = [liked(0, int(first.items[0])) for first in firsts]
    transitions = []
    for first, history, probs in zip(firsts, between, policy(actor, between), strict=True):
        second, reward = sample_slate(probs, 1, rng), float(first.items[0] == 1)
        propensities = (float(first.propensities[0]),), (float(second.propensities[0]),)
        transitions.append(Transition(liked(0), (int(first.items[0]),), (0.0,), propensities[0], gamma, history))
        transitions.append(Transition(history, (int(second.items[0]),), (reward,), propensities[1], 0.0, history))
    return transitions


@pytest.mark.parametrize("gamma", [0.8, 0.0])
def test_mac_learns_what_only_pays_later_as_far_as_the_discount_looks(gamma: float) -> None:
    learner, replay = mac(43, n_items=5), Replay(2000, NETWORK.max_history, 1)
    rng, generator = np.random.default_rng(44), torch.Generator().manual_seed(44)
    for _ in range(60):
        for transition in two_step_sessions(learner.actor, rng, gamma):
            replay.add(transition)
        learner.update(replay, 64, generator)
    with torch.inference_mode():
        q = learner.critic.q_values(pack_states([liked(0)], NETWORK.max_history))[0]
    assert q[1].item() == pytest.approx(gamma, abs=0.1)
    if gamma > 0:
        assert policy(learner.actor, [liked(0)])[0, 1] > 0.9
        assert q[2:].max().item() < 0.4


def as_checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through bytes, as a checkpoint travels."""
    return load(save({name: tensor.contiguous() for name, tensor in state.items()}))


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name].dtype != other[name].dtype]
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    states = []
    for seed in (45, 45, 46):
        learner = LEARNERS[name](45)
        learn(learner, new_replay(), 50 if name == "a2c" else 13, seed)  # 50 updates, or 52
        states.append(as_checkpoint(learner.state_dict()))
    assert_same_bits(states[0], states[1])
    assert not torch.equal(states[0]["actor.query.weight"], states[2]["actor.query.weight"])


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
    assert not torch.equal(saved[0]["actor.query.weight"], resumed.state_dict()["actor.query.weight"])


def test_mac_carries_the_fraction_of_a_step_over() -> None:
    learner, replay = mac(50, config=replace(MAC_CONFIG, updates_per_transition=0.4)), new_replay()
    for transition in identity_round(learner.actor, np.random.default_rng(51)):
        replay.add(transition)
    generator = torch.Generator().manual_seed(51)
    steps = [bool(learner.update(replay, 1, generator)) for _ in range(3)]
    resumed = mac(52, config=learner.config)
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
            assert (len(old), len(new)) == (ITEMS, TEXT_DIM)
            assert torch.equal(new[:ITEMS], old), key
            assert not new[ITEMS:].any(), key
    assert any(key.startswith("optimizer") and tensor.ndim and tensor.any() for key, tensor in after.items())
    learn(learner, new_replay(), ROUNDS[name], seed=55)
    assert identity_reward(learner.actor) > 0.9


def kl_by_loop(one: Probs, other: Probs) -> float:
    """Largest KL(one || other) of any row, in nats."""
    rows = zip(one, other, strict=True)
    return max(math.fsum(p * math.log(p / q) for p, q in zip(a, b, strict=True) if p > 0) for a, b in rows)


@pytest.mark.parametrize(("weight", "near", "far"), [(100.0, 0.0, 0.02), (0.0, 1.0, math.inf)])
def test_a_heavy_anchor_holds_macs_actor(weight: float, near: float, far: float) -> None:
    anchor = random_scorer(np.random.default_rng(56), TEXT[:ITEMS], NETWORK, scale=0.3).requires_grad_(False)
    learner = mac(57, config=replace(MAC_CONFIG, anchor_weight=weight), anchor=anchor)
    learn(learner, new_replay(), 50, seed=58)
    histories = [liked(i) for i in range(ITEMS)]
    assert near <= kl_by_loop(policy(learner.actor, histories), policy(anchor, histories)) < far


@pytest.mark.parametrize("alpha_init", [0.3, 2.0])
def test_mac_finds_the_alpha_that_keeps_the_entropy_at_its_target(alpha_init: float) -> None:
    config = replace(MAC_CONFIG, target_entropy=0.5, alpha_init=alpha_init)
    learner = mac(59, config=config)
    learn(learner, new_replay(), 100, seed=60)
    probs = policy(learner.actor, [liked(i) for i in range(ITEMS)])
    entropy = np.mean([-sum(p * math.log(p) for p in row if p > 0) for row in probs])
    assert entropy == pytest.approx(0.5 * math.log(ITEMS), abs=0.1)
