"""The rules of the simulated worlds and many sessions at once: users answer slates, change with them, and leave.

A turn is one slate. Everything is numpy over B sessions; -1 stands for "no item".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simulator.world.drift import Drift
from simulator.world.likeness import (
    Bools,
    Indices,
    LeaveWindow,
    distance_quantile,
    exposure_to,
    leave_window_length,
    too_close,
)
from simulator.world.users import Floats, UserModel, sigmoid


@dataclass(frozen=True)
class EnvironmentConfig:
    """Rules of a session, by default in the world of boredom; `kinds.WORLDS` has the others.

    Windows count turns; with `slate_size` 1 a turn is an item, as in EasyRL4Rec. A rule that is None is off.
    """

    slate_size: int = 5
    max_turn: int = 10
    satiation: float = 0.5  # in logits, per unit of exposure to what was shown
    satiation_window: int = 3  # how far back exposure looks, in every world
    satiation_decay: float = 0.7  # per turn
    num_leave_compute: int = 2
    leave_quantile: float = 0.005  # of all distances between two items; closer than this bores
    leave_share: float = 0.5  # of a slate's items that must bore for the user to leave
    leave_window: LeaveWindow = "corrected"
    attraction: float | None = None  # in logits, per unit of exposure to what was liked
    aversion: float | None = None  # in logits, per unit of exposure to what was shown in vain
    hazard: float | None = None  # chance of leaving after a slate; nobody leaves of likeness then
    frustration: float | None = None  # what each slate in a row without a like multiplies the hazard by
    drift_period: int | None = None  # sessions until tastes are again what they were

    def rules(self) -> dict[str, Any]:
        """The rules that are on, by name: what records and reports say."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def response_probability(affinity: Floats, shift: Floats) -> Floats:
    """P(positive response) = sigmoid(logit(affinity) + shift); any equal shapes."""
    assert affinity.shape == shift.shape
    return sigmoid(np.log(affinity) - np.log1p(-affinity) + shift)


def leave_probability(in_vain: Indices, hazard: float, frustration: float) -> Floats:
    """P(leave) = min(1, hazard * frustration^(m - 1)) after `in_vain` = m [n] slates in a row without a like."""
    return np.asarray(np.minimum(1.0, hazard * frustration ** (in_vain - 1.0)), np.float32)


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
    def drift(self) -> Drift | None:
        """Change of tastes from session to session; None where they stay."""
        return None if self.config.drift_period is None else Drift(self.users, self.config.drift_period)

    @property
    def popularity(self) -> Floats:
        """[A] mean affinity over all users, in the first session."""
        return self.users.popularity

    @property
    def n_users(self) -> int:
        return len(self.users.user_factors)

    @property
    def n_items(self) -> int:
        return len(self.users.item_factors)


class SessionBatch:
    """B sessions at once, each with its own user and turn.

    The rules for a slate at turn t: an item answers with the probability of its affinity, moved by its exposure to the
    items of the last `satiation_window` turns (an item a turns back weighs decay^(a-1)): down by `satiation`, or up by
    `attraction` for what was liked and down by `aversion` for what was not. An item seen before in the session, or
    twice in the slate, earns nothing. Then the user leaves, at the latest after `max_turn` turns: by chance where there
    is a `hazard` (see `leave_probability`), otherwise if at least `leave_share` of the slate's items are too close to
    any item of the last `num_leave_compute` turns (with slates of one: EasyRL4Rec's rule). Items of one slate do not
    change each other.

    Read, do not write: `users` and `sessions` [B] by number, `affinity` [B, A] of these users in these sessions, `turn`
    [B], `shown` [B, max_turn, K] item indices and `responses` [B, max_turn, K] so far (-1 and False where nothing was
    shown), `seen` [B, A], `left` [B] (by the user's will), `done` [B].
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world = world
        # Leaving has luck of its own: responses have the same luck in all worlds.
        self._rng, self._leave_rng = rng, rng.spawn(1)[0]
        self.reset(np.zeros(0, np.int64))

    def reset(self, users: Indices, rows: Indices | None = None, first: int = 0) -> None:
        """Begin new sessions of these users, all of the batch, or only those at `rows` (len(rows) == len(users)).

        `first` is the number of the first of them, the others follow: it tells what time it is where tastes drift.
        All chance of a session is drawn here, so that the same seed gives the same luck to every policy.
        """
        config, n = self.world.config, len(users)
        assert n == 0 or (users.min() >= 0 and users.max() < self.world.n_users)
        slates, sessions = (n, config.max_turn, config.slate_size), first + np.arange(n)
        fresh = {
            "users": users.copy(),
            "sessions": sessions,
            "affinity": self._affinity(users, sessions),
            "turn": np.zeros(n, np.int64),
            "shown": np.full(slates, -1, np.int64),
            "responses": np.zeros(slates, np.bool_),
            "seen": np.zeros((n, self.world.n_items), np.bool_),
            "left": np.zeros(n, np.bool_),
            "_luck": self._rng.random(slates, np.float32),
            "_leave_luck": self._leave_rng.random(slates[:2], np.float32),
        }
        for name, values in fresh.items():
            if rows is None:
                setattr(self, name, values)
            else:
                getattr(self, name)[rows] = values

    def _affinity(self, users: Indices, sessions: Indices) -> Floats:
        affinity = self.world.users.affinity[users]
        if (drift := self.world.drift) is not None:
            for row, (user, session) in enumerate(zip(users, sessions, strict=True)):
                affinity[row] = drift.affinity(int(user), int(session))
        return affinity

    users: Indices
    sessions: Indices
    affinity: Floats
    turn: Indices
    shown: Indices
    responses: Bools
    seen: Bools
    left: Bools
    _luck: Floats
    _leave_luck: Floats

    @property
    def done(self) -> Bools:
        """[B] has the session ended, left or at its last turn?"""
        return np.asarray(self.left | (self.turn >= self.world.config.max_turn))

    def populations(self) -> Iterator[tuple[UserModel, Indices]]:
        """All users' truth at the time of the sessions, with the rows of those: once where tastes stay."""
        drift = self.world.drift
        steps = np.zeros_like(self.sessions) if drift is None else drift.steps(self.sessions)
        for step in np.unique(steps):
            truth = self.world.users if drift is None else drift.population(int(step))
            yield truth, np.flatnonzero(steps == step)

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
            turn, k = self.turn[live], slates.shape[1]
            responses = self._luck[live, turn, :k] < self.probability(offered, live)
            self.shown[live, turn, :k] = offered
            self.responses[live, turn, :k] = responses
            self.left[live] = self._leave(offered, live)
            session, slot = np.nonzero(offered >= 0)
            self.seen[live[session], offered[session, slot]] = True
            self.turn[live] += 1
            rewards[open_] = responses
        return rewards, self.done[rows]

    def _leave(self, offered: Indices, live: Indices) -> Bools:
        """[n] do the users leave after these slates, to which they have responded?"""
        config, turn = self.world.config, self.turn[live]
        if config.hazard is None:
            boring = (self.bores(offered, live) & (offered >= 0)).sum(axis=1)
            return np.asarray((boring > 0) & (boring >= config.leave_share * (offered >= 0).sum(axis=1)))
        liked = self.responses[live].any(axis=2)
        last_liked = np.where(liked, np.arange(config.max_turn), -1).max(axis=1)
        chance = leave_probability(turn - last_liked, config.hazard, config.frustration or 1.0)
        return np.asarray(self._leave_luck[live, turn] < chance)

    def probability(self, items: Indices | None, rows: Indices) -> Floats:
        """True probability that each item, shown now, is answered positively; [n, m], all items where `items` is None.

        `items` [n, m], -1 = no item (probability 0).
        """
        if items is None:
            affinity, spent = self.affinity[rows], self.seen[rows]
        else:
            affinity = self.affinity[rows[:, None], items]
            repeated = np.tril(items[:, :, None] == items[:, None, :], k=-1).any(axis=2)
            spent = (items < 0) | np.take_along_axis(self.seen[rows], items, axis=1) | repeated
        return np.where(spent, np.float32(0), response_probability(affinity, self.shift(items, rows)))

    def shift(self, items: Indices | None, rows: Indices) -> Floats:
        """Compute the logits by which the session so far moves each item; [n, m], all items where `items` is None."""
        config, vectors = self.world.config, self.world.users.item_vectors
        shown, responses, age = self._window(rows, config.satiation_window)
        moves = np.where(responses, config.attraction or 0.0, -(config.aversion or 0.0)) - config.satiation
        weights = np.where(shown >= 0, moves * config.satiation_decay ** (age - 1), 0.0).astype(np.float32)
        return exposure_to(vectors[None] if items is None else vectors[items], vectors[shown], weights)

    def bores(self, items: Indices | None, rows: Indices) -> Bools:
        """Would showing the item now make the user leave? [n, m], all items where `items` is None."""
        config, vectors = self.world.config, self.world.users.item_vectors
        shown, _, age = self._window(rows, config.num_leave_compute)
        length = leave_window_length(self.turn[rows], config.num_leave_compute, config.leave_window)
        candidates = vectors[None] if items is None else vectors[items]
        counted = (shown >= 0) & (age <= length[:, None]) & (config.hazard is None)
        return too_close(candidates, vectors[shown], counted, self.world.leave_threshold)

    def _window(self, rows: Indices, n_turns: int) -> tuple[Indices, Bools, Indices]:
        """Items of the last turns before now, [n, n_turns * K] with -1 for none, the responses, and their ages."""
        age = np.arange(1, n_turns + 1)
        at = self.turn[rows, None] - age
        before, k = np.maximum(at, 0), self.world.config.slate_size
        slates = np.where((at >= 0)[:, :, None], self.shown[rows[:, None], before], -1)
        responses = self.responses[rows[:, None], before]
        return slates.reshape(len(rows), -1), responses.reshape(len(rows), -1), np.repeat(age, k)[None]
