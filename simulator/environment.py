"""The rules of the simulated world and many sessions at once: users answer slates, tire of what is alike, and leave.

A turn is one slate. Everything is numpy over B sessions; -1 stands for "no item".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.users import Floats, UserModel, sigmoid

Indices = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
LeaveWindow = Literal["corrected", "upstream"]


@dataclass(frozen=True)
class EnvironmentConfig:
    """How sessions go. Windows count turns; with `slate_size` 1 a turn is an item, as in EasyRL4Rec."""

    slate_size: int = 5
    max_turn: int = 10
    satiation: float = 0.5  # in logits, per unit of exposure
    satiation_window: int = 3
    satiation_decay: float = 0.7  # per turn
    num_leave_compute: int = 2
    leave_quantile: float = 0.005  # of all distances between two items; closer than this bores
    leave_share: float = 0.5  # of a slate's items that must bore for the user to leave
    leave_window: LeaveWindow = "corrected"


def response_probability(affinity: Floats, exposure: Floats, satiation: float) -> Floats:
    """P(positive response) = sigmoid(logit(affinity) - satiation * exposure); any equal shapes."""
    assert affinity.shape == exposure.shape
    return sigmoid(np.log(affinity) - np.log1p(-affinity) - satiation * exposure)


def exposure_to(candidates: Floats, shown: Floats, weights: Floats) -> Floats:
    """[B, M]: sum over shown items j of weights[j] * max(0, cos(candidate, j)).

    `candidates` [B, M, d] (or [1, M, d]: the same for all), `shown` [B, W, d], unit vectors; `weights` [B, W].
    """
    similarity = candidates @ shown.transpose(0, 2, 1)
    return np.asarray((np.maximum(similarity, 0.0) @ weights[:, :, None])[:, :, 0], np.float32)


def leave_window_length(turn: Indices, n: int, window: LeaveWindow) -> Indices:
    """How many turns back from turn t (0-based, elementwise) the leave rule looks.

    `corrected`: seq[max(0, t-n):t]. `upstream`: EasyRL4Rec's slice seq[t-n:t] of a list of length t, whose negative
    start counts from the end: seq[max(0, 2t-n):t] for 0 < t < n, so that it sees little or nothing early on.
    """
    if window == "corrected":
        return np.minimum(turn, n)
    return np.where(turn >= n, n, np.minimum(turn, n - turn))


def too_close(candidates: Floats, shown: Floats, counted: Bools, threshold: float) -> Bools:
    """[B, M]: is the candidate at a distance below `threshold` from any counted shown item?

    `candidates` [B, M, d] or [1, M, d], `shown` [B, W, d], unit vectors; `counted` [B, W]. Source: EasyRL4Rec (Yu et
    al. 2024), the environments with an item distance matrix.
    """
    # Between unit vectors, distance < threshold exactly where cos > 1 - threshold^2 / 2.
    near = candidates @ shown.transpose(0, 2, 1) > 1.0 - 0.5 * threshold * threshold
    return np.asarray((near & counted[:, None, :]).any(axis=2))


def distance_quantile(item_vectors: Floats, quantile: float) -> float:
    """The quantile of the distances between all pairs of different items; `item_vectors` [A, d] are unit vectors."""
    assert len(item_vectors) > 1
    rows, columns = np.triu_indices(len(item_vectors), k=1)
    cosines = (item_vectors @ item_vectors.T)[rows, columns]
    return float(np.sqrt(max(0.0, 2.0 - 2.0 * np.quantile(cosines, 1.0 - quantile))))


@dataclass(frozen=True)
class World:
    """User truth and the rules: everything sessions need, nothing that changes."""

    users: UserModel
    config: EnvironmentConfig

    @cached_property
    def leave_threshold(self) -> float:
        """Distance between unit item vectors below which an item bores."""
        return distance_quantile(self.users.item_vectors, self.config.leave_quantile)

    @cached_property
    def popularity(self) -> Floats:
        """[A] mean affinity over all users."""
        return np.asarray(self.users.affinity.mean(axis=0), np.float32)

    @property
    def n_users(self) -> int:
        return len(self.users.user_factors)

    @property
    def n_items(self) -> int:
        return len(self.users.item_factors)


class SessionBatch:
    """B sessions at once, each with its own user and turn.

    The rules for a slate at turn t: an item answers with the probability of its affinity, lowered by its exposure to
    the items of the last `satiation_window` turns (an item a turns back weighs decay^(a-1)); an item seen before in the
    session, or twice in the slate, earns nothing. Then the user leaves if the slate bores, that is if at least
    `leave_share` of its items are too close to any item of the last `num_leave_compute` turns (with slates of one:
    EasyRL4Rec's rule), or after `max_turn` turns. Items of one slate do not tire each other.

    Read, do not write: `users` [B], `turn` [B], `shown` [B, max_turn, K] item indices and `responses` [B, max_turn, K]
    so far (-1 and False where nothing was shown), `seen` [B, A], `left` [B] (left bored), `done` [B].
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world = world
        self._rng = rng
        self.reset(np.zeros(0, np.int64))

    def reset(self, users: Indices, rows: Indices | None = None) -> None:
        """Begin new sessions of these users, all of the batch, or only those at `rows` (len(rows) == len(users)).

        All chance of a session is drawn here, so that the same seed gives the same luck to every policy.
        """
        config, n = self.world.config, len(users)
        assert n == 0 or (users.min() >= 0 and users.max() < self.world.n_users)
        slates = (n, config.max_turn, config.slate_size)
        fresh = {
            "users": users.copy(),
            "turn": np.zeros(n, np.int64),
            "shown": np.full(slates, -1, np.int64),
            "responses": np.zeros(slates, np.bool_),
            "seen": np.zeros((n, self.world.n_items), np.bool_),
            "left": np.zeros(n, np.bool_),
            "_luck": self._rng.random(slates, np.float32),
        }
        for name, values in fresh.items():
            if rows is None:
                setattr(self, name, values)
            else:
                getattr(self, name)[rows] = values

    users: Indices
    turn: Indices
    shown: Indices
    responses: Bools
    seen: Bools
    left: Bools
    _luck: Floats

    @property
    def done(self) -> Bools:
        """[B] has the session ended, bored or at its last turn?"""
        return np.asarray(self.left | (self.turn >= self.world.config.max_turn))

    def show(self, slates: Indices, rows: Indices | None = None) -> tuple[Floats, Bools]:
        """Show a slate to every session, or to those at `rows` (each at most once).

        `slates` [n, k] item indices, -1 = no item, k <= slate_size. Returns rewards [n, k] (0 or 1) and done [n].
        Sessions that had ended stay as they are and earn nothing.
        """
        rows = np.arange(len(self.users)) if rows is None else rows
        assert slates.ndim == 2 and len(slates) == len(rows) and slates.shape[1] <= self.world.config.slate_size
        assert slates.size == 0 or (slates.min() >= -1 and slates.max() < self.world.n_items)
        rewards = np.zeros(slates.shape, np.float32)
        open_ = ~self.done[rows]
        live, offered = rows[open_], slates[open_]
        if len(live):
            config, turn, k = self.world.config, self.turn[live], slates.shape[1]
            responses = self._luck[live, turn, :k] < self.probability(offered, live)
            boring = (self.bores(offered, live) & (offered >= 0)).sum(axis=1)
            self.left[live] = (boring > 0) & (boring >= config.leave_share * (offered >= 0).sum(axis=1))
            self.shown[live, turn, :k] = offered
            self.responses[live, turn, :k] = responses
            session, slot = np.nonzero(offered >= 0)
            self.seen[live[session], offered[session, slot]] = True
            self.turn[live] += 1
            rewards[open_] = responses
        return rewards, self.done[rows]

    def probability(self, items: Indices | None, rows: Indices) -> Floats:
        """True probability that each item, shown now, is answered positively; [n, m], all items where `items` is None.

        `items` [n, m], -1 = no item (probability 0).
        """
        users, config = self.world.users, self.world.config
        exposure = self.exposure(items, rows)
        if items is None:
            affinity, spent = users.affinity[self.users[rows]], self.seen[rows]
        else:
            affinity = users.affinity[self.users[rows, None], items]
            repeated = np.tril(items[:, :, None] == items[:, None, :], k=-1).any(axis=2)
            spent = (items < 0) | np.take_along_axis(self.seen[rows], items, axis=1) | repeated
        return np.where(spent, np.float32(0), response_probability(affinity, exposure, config.satiation))

    def exposure(self, items: Indices | None, rows: Indices) -> Floats:
        """How much of the kind each item's session has just seen (see `exposure_to`); [n, m], all items for None."""
        config, vectors = self.world.config, self.world.users.item_vectors
        shown, age = self._window(rows, config.satiation_window)
        weights = np.where(shown >= 0, config.satiation_decay ** (age - 1), 0.0).astype(np.float32)
        return exposure_to(vectors[None] if items is None else vectors[items], vectors[shown], weights)

    def bores(self, items: Indices | None, rows: Indices) -> Bools:
        """Would showing the item now make the user leave? [n, m], all items where `items` is None."""
        config, vectors = self.world.config, self.world.users.item_vectors
        shown, age = self._window(rows, config.num_leave_compute)
        length = leave_window_length(self.turn[rows], config.num_leave_compute, config.leave_window)
        candidates = vectors[None] if items is None else vectors[items]
        counted = (shown >= 0) & (age <= length[:, None])
        return too_close(candidates, vectors[shown], counted, self.world.leave_threshold)

    def _window(self, rows: Indices, n_turns: int) -> tuple[Indices, Indices]:
        """Items of the last turns before now, [n, n_turns * K] with -1 for none, and how many turns back they are."""
        age = np.arange(1, n_turns + 1)
        at = self.turn[rows, None] - age
        slates = np.where((at >= 0)[:, :, None], self.shown[rows[:, None], np.maximum(at, 0)], -1)
        k = self.world.config.slate_size
        return slates.reshape(len(rows), n_turns * k), np.repeat(age, k)[None]
