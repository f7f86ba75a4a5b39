"""Play a policy in a simulated world: baselines that know the truth to different degrees, and what they earn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.world.environment import SessionBatch, World, response_probability
from simulator.world.likeness import Indices
from simulator.world.users import Floats

PolicyFn = Callable[[SessionBatch], Indices]
"""Sees a batch of sessions and chooses slates [B, K] of item indices; -1 leaves a slot empty."""

_BATCH = 256  # sessions at once; the oracle needs some [batch, items, window] of memory


@dataclass(frozen=True)
class RolloutStats:
    """n sessions: reward (positive responses) and length (turns) of each, and how varied what was shown was."""

    reward: Floats  # [n]
    length: npt.NDArray[np.int64]  # [n]
    bored: npt.NDArray[np.bool_]  # [n], the user left before the last turn's limit
    coverage: float  # share of the catalogue shown at least once
    diversity: float  # mean over sessions of 1 - cos over pairs of items shown in it

    @property
    def reward_per_turn(self) -> float:
        """Sum of rewards over sum of turns."""
        return float(self.reward.sum() / self.length.sum())


def rollout(
    world: World, policy: PolicyFn, seed: int, n_sessions: int, progress: Callable[[int], None] = lambda n: None
) -> RolloutStats:
    """Play `n_sessions` sessions of users drawn at random with replacement; the same seed, the same users and luck.

    `progress` is called with the number of sessions that have just ended.
    """
    assert n_sessions > 0
    rng = np.random.default_rng(seed)
    users = rng.integers(world.n_users, size=n_sessions)
    batch = SessionBatch(world, rng)
    covered = np.zeros(world.n_items, np.bool_)
    rewards, lengths, bored, diversities = [], [], [], []
    for start in range(0, n_sessions, _BATCH):
        batch.reset(users[start : start + _BATCH], first=start)
        while not batch.done.all():
            batch.show(policy(batch))
        rewards.append(batch.responses.sum(axis=(1, 2), dtype=np.float32))
        lengths.append(batch.turn.copy())
        bored.append(batch.left.copy())
        covered |= batch.seen.any(axis=0)
        diversities.append(session_diversity(batch.shown.reshape(len(batch.users), -1), world.users.item_vectors))
        progress(len(batch.users))
    diversity = float(np.nanmean(np.concatenate(diversities)))
    return RolloutStats(
        np.concatenate(rewards), np.concatenate(lengths), np.concatenate(bored), float(covered.mean()), diversity
    )


def session_diversity(shown: Indices, item_vectors: Floats) -> Floats:
    """[B] mean of 1 - cos over pairs of places in `shown` [B, n] (-1 = none); NaN with fewer than two items."""
    present = shown >= 0
    total = (item_vectors[shown] * present[:, :, None]).sum(axis=1)
    count = present.sum(axis=1).astype(np.float32)
    pairs = np.where(count > 1, count * (count - 1), np.nan)
    # |sum of unit vectors|^2 = n + sum of cos over ordered pairs
    return np.asarray(1.0 - ((total * total).sum(axis=1) - count) / pairs, np.float32)


def random_policy(seed: int) -> PolicyFn:
    """Uniform over the items not seen in the session."""
    rng = np.random.default_rng(seed)
    return lambda batch: _best(rng.random(batch.seen.shape, np.float32), batch)


def popularity_policy(batch: SessionBatch) -> Indices:
    """The unseen items that users like most on average (the true average, which no honest policy knows)."""
    return _best(_popularity(batch), batch)


def oracle_slate(batch: SessionBatch) -> Indices:
    """A ceiling: the unseen items with the highest true probability now; those that bore the user come last."""
    return _greedy(batch.affinity, batch)


def item_oracle_slate(batch: SessionBatch) -> Indices:
    """A ceiling for who knows all of items, how popular each is and what is alike, and nothing of users."""
    return _greedy(_popularity(batch), batch)


class PopulationOracle:
    """A ceiling for strangers: knows every user's true taste, but not which of them this is.

    Its belief over the users is exact (Bayes, uniform before the first response); its slates are greedy by the belief's
    mean affinity, which the session moves as it moves everybody's. It does not try things out to learn more of a user.
    When users leave tells nothing of who they are: that depends on what was shown and answered alone.
    """

    def __init__(self, world: World) -> None:
        self.log_belief: Floats = np.zeros((0, world.n_users), np.float32)  # [B, U] not normalised
        self._shift: Floats = np.zeros((0, world.config.slate_size), np.float32)  # of the last slates

    def __call__(self, batch: SessionBatch) -> Indices:
        """All sessions of the batch begin together, and every call is followed by `show` of its slates."""
        rows = np.arange(len(batch.users))
        if batch.turn.max() == 0:
            self.log_belief = np.zeros((len(rows), batch.world.n_users), np.float32)
        else:
            self._learn(batch)
        belief = np.exp(self.log_belief - self.log_belief.max(axis=1, keepdims=True))
        mean = np.empty(batch.seen.shape, np.float32)
        for truth, at in batch.populations():
            mean[at] = (belief[at] @ truth.affinity) / belief[at].sum(axis=1, keepdims=True)
        slates = _greedy(mean, batch)
        self._shift = batch.shift(slates, rows)
        return slates

    def _learn(self, batch: SessionBatch) -> None:
        """From the responses to the last slates, of the sessions that had one."""
        turn = int(batch.turn.max())
        for truth, at in batch.populations():
            rows = at[batch.turn[at] == turn]
            shown, responses = batch.shown[rows, turn - 1], batch.responses[rows, turn - 1]
            for slot in range(shown.shape[1]):
                logits = truth.logits_by_item[np.maximum(shown[:, slot], 0)] + self._shift[rows, slot, None]
                log_likelihood = -np.logaddexp(0.0, np.where(responses[:, slot, None], -logits, logits))
                self.log_belief[rows] += np.where(shown[:, slot, None] >= 0, log_likelihood, 0.0)


CEILINGS: Mapping[str, Callable[[World], PolicyFn]] = {
    "oracle": lambda world: oracle_slate,
    "population_oracle": PopulationOracle,
    "item_oracle": lambda world: item_oracle_slate,
}


def _popularity(batch: SessionBatch) -> Floats:
    """[B, A] true mean affinity over all users, at the time of each session."""
    popularity = np.empty(batch.seen.shape, np.float32)
    for truth, at in batch.populations():
        popularity[at] = truth.popularity
    return popularity


def _greedy(affinity: Floats, batch: SessionBatch) -> Indices:
    """[B, K] the unseen items that are likeliest to be answered now, were `affinity` [B, A] the users'."""
    rows = np.arange(len(batch.users))
    probability = response_probability(affinity, batch.shift(None, rows))
    # Probabilities are below 1: every item that bores ranks below every item that does not.
    return _best(probability - batch.bores(None, rows), batch)


def _best(scores: Floats, batch: SessionBatch) -> Indices:
    """[B, K] unseen items with the highest scores, best first; -1 where too few are unseen."""
    k = min(batch.world.config.slate_size, batch.world.n_items)
    masked = np.where(batch.seen, -np.inf, scores)
    top = np.argpartition(-masked, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(masked, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(top, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(values, order, axis=1)), -1, ordered)
