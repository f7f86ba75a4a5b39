"""Every learner learns tiny tasks from scratch, and resumes and grows without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from service.policy import losses
from service.policy.a2c import A2C, A2CConfig
from service.policy.adaptive import ServingPolicy
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.hazard import N_TURNS
from service.policy.learner import Learner
from service.policy.networks import RARE, ItemScorer, NetworkConfig
from service.policy.replay import Replay
from service.policy.sampling import sample_slate
from service.policy.taste import TASTE_DIM
from service.policy.types import Interaction, Response, Transition, pack_states
from service.policy.variants import ServingConfig, Variant
from tests.policy.network_loops import nearest_by_loop, response_by_loop
from tests.policy.policy_examples import (
    as_checkpoint,
    assert_same_bits,
    fresh_scorer,
    leaving,
    liked,
    orthogonal_text,
    random_scorer,
    responses,
)

ITEMS, GROWN, SLOTS, ROUND = 8, 10, 2, 64
DIM = 26  # a little more than the directions that have weights of their own
# Soft policies: optimism tries items, but in the tasks here pairs of items must be tried, which only entropy does.
NETWORK = NetworkConfig(dim=DIM, text_dim=DIM, max_history=2, temperature=1.0)
TEXT = orthogonal_text(np.random.default_rng(40), DIM)[:GROWN]
BOLTZMANN_CONFIG = BoltzmannConfig(
    shared_learning_rate=0.02, batch_size=64, updates_per_transition=1 / 16, weight_decay=0.0
)
A2C_CONFIG = A2CConfig(learning_rate=0.01, entropy_weight=0.03, batch_size=64)

History = tuple[Interaction, ...]
Probs = npt.NDArray[np.float64]


def boltzmann(
    seed: int, n_items: int = ITEMS, config: BoltzmannConfig = BOLTZMANN_CONFIG, prior: ItemScorer | None = None
) -> Boltzmann:
    return Boltzmann(fresh_scorer(seed, TEXT[:n_items], NETWORK), config, prior)


def a2c(seed: int, n_items: int = ITEMS) -> A2C:
    text = TEXT[:n_items]
    return A2C(fresh_scorer(seed, text, NETWORK), fresh_scorer(seed + 1, text, NETWORK), A2C_CONFIG)


LEARNERS: dict[str, Callable[[int], Learner]] = {"a2c": a2c, "boltzmann": boltzmann}


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
ROUNDS = {"a2c": 120, "boltzmann": 60}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_identity_task_is_learned_from_scratch(name: str) -> None:
    learner = LEARNERS[name](41)
    assert identity_reward(learner.actor) == pytest.approx(1 / (ITEMS - 1), abs=0.02)
    learn(learner, new_replay(), ROUNDS[name], seed=42)
    assert identity_reward(learner.actor) > 0.9


def shown_after(actor: ItemScorer, history: History, rng: np.random.Generator, n: int) -> list[Transition]:
    """The user leaves at once when shown the item that reads like the last one, and half likes everything (no draws:
    what noise in rewards does to the policy is another matter)."""
    probs = policy(actor, [history])[0]
    transitions = []
    for _ in range(n):
        slate = sample_slate(probs, 1, rng)
        item = int(slate.items[0])
        bored = item == (history[-1].item + 1) % actor.n_items
        discount = 0.0 if bored else 0.5
        transitions.append(Transition(history, (item,), (0.5,), (float(slate.propensities[0]),), discount, history))
    return transitions


def test_boltzmann_learns_what_makes_users_leave() -> None:
    text = TEXT[:6].repeat_interleave(2, dim=0)  # items 2i and 2i + 1 read alike
    learner = Boltzmann(fresh_scorer(43, text, NETWORK), BOLTZMANN_CONFIG)
    assert learner.actor.config.horizon > 0
    with torch.no_grad():
        learner.actor.leave[1] = 0.0  # it does not know yet
    replay, rng, generator = Replay(2000, NETWORK.max_history, 1), np.random.default_rng(44), torch.Generator()
    history = (Interaction(2, Response.IGNORED),)
    assert policy(learner.actor, [history])[0, 3] == pytest.approx(1 / 11, abs=0.01)
    for _ in range(40):
        for transition in shown_after(learner.actor, history, rng, ROUND):
            replay.add(transition)
        learner.update(replay, ROUND, generator.manual_seed(44))
    probs = policy(learner.actor, [history])[0]
    assert probs[3] < 0.01
    assert probs[4:].min() > 0.02
    # It is a rule about texts, not about items 2 and 3.
    states = pack_states([(Interaction(8, Response.IGNORED),)], NETWORK.max_history)
    with torch.no_grad():
        left = leaving(learner.actor, states)[0].sigmoid().numpy()
    assert left[9] > 4 * np.delete(left, [8, 9]).max()


def test_boltzmanns_loss_equals_a_loop() -> None:
    rng = np.random.default_rng(70)
    scorer, prior = (random_scorer(rng, TEXT[:ITEMS], NETWORK, scale=0.5) for _ in range(2))
    learner = Boltzmann(scorer, replace(BOLTZMANN_CONFIG, reward_scale=2.0), prior)
    replay = Replay(8, NETWORK.max_history, SLOTS)
    rows = [
        ((), (1, 2), (1.0, 0.0), 0.5, 0),
        (liked(3), (4,), (3.0,), 0.0, 1),
        (liked(3, 5), (0, 7), (-1.0, 2.0), 0.5, 2),
        (liked(5), (6,), (0.0,), 0.5, 1),
    ]
    for history, actions, rewards, discount, turn in rows:
        replay.add(Transition(history, actions, rewards, (0.5,) * len(actions), discount, history, turn))
    response_losses = []
    for history, actions, rewards, _, _ in rows:
        f = response_by_loop(scorer, history, prior)
        for action, reward in zip(actions, rewards, strict=True):
            likely = max(1 / (1 + math.exp(-float(f[action]))), 0.02)
            times = 1 + max(-reward / 2.0, 0.0) / likely  # that it counts
            response_losses.append(times * cross_entropy(float(f[action]), min(max(reward / 2.0, 0.0), 1.0)))
    assert learner.loss(replay.latest(4)).item() == pytest.approx(np.mean(response_losses), abs=1e-5)
    # Ends: a slate counts as a whole, and where nothing was shown before it there is nothing to be close to.
    counts = np.zeros((N_TURNS, 3))
    for history, actions, _, discount, turn in rows:
        if history:
            close = nearest_by_loop(scorer, history)[list(actions)] ** 2
            counts[turn] += (1.0, float(discount == 0), close.mean())
    learner.update(replay, 4, torch.Generator())
    np.testing.assert_allclose(learner.hazard.counts.numpy(), counts, atol=1e-6)


def test_items_own_tastes_stay_by_what_their_texts_say() -> None:
    """The loss of a step is the mean over slots, so of what is known beforehand it takes one slot's share."""
    rng = np.random.default_rng(73)
    learner = Boltzmann(random_scorer(rng, TEXT[:ITEMS], NETWORK, scale=0.5), BOLTZMANN_CONFIG)
    replay = new_replay()
    replay.add(Transition(liked(3), (4, 5), (1.0, 0.0), (0.5, 0.5), 0.5, liked(3)))
    batch, tastes = replay.latest(1), learner.actor.taste_id.detach().clone()
    (of_loss,) = torch.autograd.grad(learner.loss(batch), learner.actor.taste_id)
    learner.step(batch, n_transitions=10)
    assert learner.actor.taste_id.grad is not None
    oracle = of_loss + learner.config.taste_precision * tastes / (10 * SLOTS)
    torch.testing.assert_close(learner.actor.taste_id.grad, oracle, atol=1e-6, rtol=0)


def test_taste_begins_as_what_texts_say_and_goes_on_as_it_was() -> None:
    fresh = boltzmann(74, config=replace(BOLTZMANN_CONFIG, taste_start=0.7, taste_level_start=0.2)).actor
    tastes = fresh.table().tastes
    torch.testing.assert_close(tastes[:, :TASTE_DIM], 0.7 * TEXT[:ITEMS, :TASTE_DIM], atol=1e-6, rtol=0)
    torch.testing.assert_close(tastes[:, TASTE_DIM], torch.full((ITEMS,), 0.2))
    known = random_scorer(np.random.default_rng(75), TEXT[:ITEMS], NETWORK)
    before = known.table().tastes.clone()
    torch.testing.assert_close(Boltzmann(known, BOLTZMANN_CONFIG).actor.table().tastes, before)


def cross_entropy(logit: float, wanted: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)


@pytest.mark.parametrize("right", [True, False])
def test_boltzmann_finds_out_how_far_its_prior_can_be_trusted(right: bool) -> None:
    """The prior wants item i + 1 after item i (the task's truth), or item i + 3."""
    prior = fresh_scorer(71, TEXT[:ITEMS], NETWORK)
    shift = torch.roll(torch.eye(ITEMS), 1 if right else 3, dims=1)
    with torch.no_grad():
        # Vectors are the texts, so f(i -> j) = RARE + t_i M t_j / (1 + 2).
        # M maps the text of i to that of the item the prior wants, times 12.
        prior.mixing[0] = 12 * TEXT[:ITEMS].T @ shift @ TEXT[:ITEMS]
        f = responses(prior, pack_states([liked(i) for i in range(ITEMS)], NETWORK.max_history))
    torch.testing.assert_close(f, RARE + 4 * shift, atol=1e-4, rtol=0)
    before = as_checkpoint(prior.state_dict())
    learner = Boltzmann(prior.residual(), BOLTZMANN_CONFIG, prior.requires_grad_(False))
    learn_with_prior(learner, rounds=40)
    of_item, personal = learner.actor.prior_gain.tolist()
    assert (personal > 0.8) if right else (personal < 0.3)
    assert of_item == pytest.approx(1.0, abs=1e-4)  # of items it says nothing, so nothing is learned of that
    assert_same_bits(before, as_checkpoint(prior.state_dict()))


def learn_with_prior(learner: Boltzmann, rounds: int) -> None:
    rng, generator, replay = np.random.default_rng(72), torch.Generator().manual_seed(72), new_replay()
    prior = learner.prior
    assert prior is not None
    for _ in range(rounds):
        serving = ServingPolicy.of(prior, learner.actor, learner.critic, ServingConfig(Variant.AP))
        wanted_after = rng.integers(ITEMS, size=ROUND)
        for i in wanted_after:
            history = liked(int(i))
            available = np.arange(ITEMS) != i
            slate = sample_slate(serving.distribution(history, available).probs, SLOTS, rng)
            rewards = tuple(float(a == (i + 1) % ITEMS) for a in slate.items)
            actions, propensities = tuple(slate.items.tolist()), tuple(slate.propensities.tolist())
            replay.add(Transition(history, actions, rewards, propensities, 0.0, history))
        learner.update(replay, ROUND, generator)


KINDS = np.arange(24) % 2  # of the items of two tastes; their texts have nothing in common
Told = tuple[History, int, float, float]  # history, item, response and its probability


def two_tastes(rng: np.random.Generator, n_sessions: int) -> list[Told]:
    """Each user likes most items of one kind and few of the other, and is shown eight of any."""
    told: list[Told] = []
    for _ in range(n_sessions):
        wanted = rng.integers(2)
        past: list[Interaction] = []
        for item in rng.permutation(len(KINDS))[:8].tolist():
            p = 0.8 if KINDS[item] == wanted else 0.1
            y = float(rng.random() < p)
            told.append((tuple(past), item, y, p))
            past.append(Interaction(item, y))
    return told


def excess_after_two_tastes(config: BoltzmannConfig) -> tuple[float, Tensor]:
    """Cross entropy beyond the truth's, in nats, from a user's fourth item on; and the products of items' tastes."""
    sizes = replace(NETWORK, max_history=8)
    learner = Boltzmann(fresh_scorer(76, orthogonal_text(np.random.default_rng(77), DIM)[: len(KINDS)], sizes), config)
    replay, rng, generator = Replay(2000, 8, 1), np.random.default_rng(78), torch.Generator().manual_seed(78)
    for _ in range(8):
        rows = two_tastes(rng, 20)
        for past, item, y, _ in rows:
            replay.add(Transition(past, (item,), (y,), (1.0,), 0.5, past))
        learner.update(replay, len(rows), generator)
    asked = [row for row in two_tastes(rng, 60) if len(row[0]) >= 3]
    with torch.no_grad():
        f = responses(learner.actor, pack_states([past for past, *_ in asked], 8))
        tastes = learner.actor.table().tastes
    pairs = [(f[row, item].item(), p) for row, (_, item, _, p) in enumerate(asked)]
    excess = [cross_entropy(logit, p) - cross_entropy(math.log(p / (1 - p)), p) for logit, p in pairs]
    return float(np.mean(excess)), tastes @ tastes.T


def test_taste_finds_out_which_items_go_together() -> None:
    """Vectors are held, so that taste alone can tell; the same learner without it is what is left of that."""
    config = replace(
        BOLTZMANN_CONFIG,
        updates_per_transition=1 / 4,
        vector_learning_rate=0.0,
        shared_learning_rate=0.0,
        taste_learning_rate=0.01,
    )
    off = replace(
        config,
        taste_start=0.0,
        taste_level_start=0.0,
        taste_learning_rate=0.0,
        taste_text_learning_rate=0.0,
        taste_level_learning_rate=0.0,
    )
    found, products = excess_after_two_tastes(config)
    without, nothing = excess_after_two_tastes(off)
    assert found < 0.6 * without
    alike = torch.from_numpy(KINDS[:, np.newaxis] == KINDS)
    others = ~torch.eye(len(KINDS), dtype=torch.bool)
    assert products[alike & others].mean() > products[~alike].mean() + 1.0
    assert not nothing.any()
