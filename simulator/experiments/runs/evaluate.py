"""Evaluation of a pre-trained snapshot, on held-out preferences and in a simulated environment.

The user truth behind both comes from real interactions, which neither the language model nor pre-training saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from offline.datasets import Dataset, Interactions
from offline.errors import OfflineError
from service.policy.exact_policy import ExactPolicy
from service.policy.sampling import sample_slate
from service.policy.snapshot import Snapshot
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import Interaction, Response, States, pack_states, session_state
from service.policy.variants import Arm
from simulator.world.environment import SessionBatch
from simulator.world.rollout import PolicyFn, RolloutStats, oracle_slate, popularity_policy, random_policy, rollout
from simulator.world.users import mean_user_auc
from simulator.world.worlds import build_world

N_RESPONSES, N_SHOWN = 20, 30  # of a session that the policy sees, as the service's defaults


@dataclass(frozen=True)
class HeldOut:
    """Mean per-user AUC of liked items that the history does not hold."""

    auc_random: float  # against items the user did not rate
    auc_matched: float  # against unrated items that are as popular
    users: int


def open_policy(folder: Path) -> tuple[Snapshot, ExactPolicy]:
    """A snapshot with the policy for the catalogue that it carries."""
    snapshot = load_snapshot(folder)
    embeddings = load_catalogue(folder).embeddings
    return snapshot, snapshot.exact_policy(snapshot.projection(torch.from_numpy(embeddings)))


def held_out_preferences(
    policy: ExactPolicy, interactions: Interactions, n_items: int, seed: int, n_users: int = 200, n_history: int = 5
) -> HeldOut:
    """Give the policy `n_history` liked items of a user; does it rank their other liked items above unrated ones?

    Raises:
        OfflineError: no user liked more than `n_history` items.
    """
    rng = np.random.default_rng(seed)
    liked = np.zeros((interactions.n_users, n_items), np.bool_)
    rated = np.zeros_like(liked)
    rated[interactions.user, interactions.item] = True
    liked[interactions.user[interactions.liked], interactions.item[interactions.liked]] = True
    able = np.flatnonzero(liked.sum(1) > n_history)
    if not len(able):
        raise OfflineError(f"no user liked more than {n_history} items; held-out preferences cannot be measured")
    users = rng.permutation(able)[:n_users]
    histories = [rng.permutation(np.flatnonzero(liked[user]))[:n_history] for user in users]
    positive = liked[users]
    for row, history in enumerate(histories):
        positive[row, history] = False
    states = pack_states(
        [[Interaction(int(item), Response.POSITIVE) for item in history] for history in histories], N_RESPONSES
    )
    probs = policy.distributions(states, np.ones((len(users), n_items), np.bool_), Arm.CONTROL).probs
    scores = np.log(np.maximum(probs, 1e-300)).astype(np.float32)
    unrated = ~rated[users]
    matched = _as_popular(positive, unrated, liked.sum(0), rng)
    return HeldOut(mean_user_auc(scores, positive, unrated), mean_user_auc(scores, positive, matched), len(users))


def _as_popular(
    positive: npt.NDArray[np.bool_],
    unrated: npt.NDArray[np.bool_],
    popularity: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Choose for each positive of a user the unrated item nearest in popularity (ties at random), [users, A]."""
    chosen = np.zeros_like(positive)
    for row in range(len(positive)):
        candidates = np.flatnonzero(unrated[row])
        for item in np.flatnonzero(positive[row]):
            distance = np.abs(popularity[candidates] - popularity[item]) + rng.random(len(candidates))
            chosen[row, candidates[np.argmin(distance)]] = True
    return chosen


def states_of(batch: SessionBatch, max_history: int) -> States:
    """The sessions of a simulated batch as the service would log them."""
    histories = []
    for shown, responses in zip(batch.shown, batch.responses, strict=True):
        filled = shown >= 0
        items, positive = shown[filled].tolist(), responses[filled]
        responded = [(item, 1.0) for item, yes in zip(items, positive, strict=True) if yes][-N_RESPONSES:]
        state = session_state(responded, items, N_SHOWN)
        histories.append([Interaction(*past) for past in state])
    return pack_states(histories, max_history)


def sampled_slates(policy: ExactPolicy, arm: Arm, seed: int) -> PolicyFn:
    """A policy that draws its slates for a simulated batch, as the service does."""
    rng = np.random.default_rng(seed)

    def slates(batch: SessionBatch) -> npt.NDArray[np.int64]:
        probs = policy.probabilities(states_of(batch, policy.max_history), ~batch.seen, arm)
        chosen = np.full((len(probs), batch.world.config.slate_size), -1, np.int64)
        for row, p in enumerate(probs):
            items = sample_slate(p, chosen.shape[1], rng).items
            chosen[row, : len(items)] = items
        return chosen

    return slates


def simulated(
    policy: ExactPolicy,
    dataset: Dataset,
    seed: int,
    n_sessions: int,
    cache: Path | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, RolloutStats]:
    """Sessions of the same users with: random, (true) popularity, the policy, and the oracle as the ceiling.

    `progress` is called with the number of sessions just ended, of `n_sessions` for each of the four.

    Raises:
        SimulatorError: the data set has no interactions to make users from.
    """
    world = build_world(dataset, cache=cache)
    policies: Sequence[tuple[str, PolicyFn]] = (
        ("random", random_policy(seed)),
        ("popularity", popularity_policy),
        ("pretrained", sampled_slates(policy, Arm.CONTROL, seed)),
        ("oracle", oracle_slate),
    )
    return {name: rollout(world, chosen, seed, n_sessions, progress) for name, chosen in policies}
