"""Sessions as numbers, from the items' texts alone: what methods without an encoder of their own look at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from service.policy.text import TextProjection
from simulator.experiments.seam.agent import Bools, Catalogue, Floats, Ints, Sessions

RECENT_TURNS = 2


class Profiles(NamedTuple):
    """Mean projected texts of a session's items [n, d]; zero where there are none."""

    liked: Floats
    last_liked: Floats
    ignored: Floats
    recent: Floats  # of the last RECENT_TURNS turns


class SessionTexts:
    """The projected texts of a catalogue, [A, d] unit rows, and sessions in their terms."""

    def __init__(self, catalogue: Catalogue, dim: int) -> None:
        embeddings = torch.from_numpy(catalogue.embeddings)
        self.items: Floats = TextProjection.fit(embeddings, dim)(embeddings).numpy()
        self._max_turn = catalogue.max_turn

    @property
    def observation_dim(self) -> int:
        """Length of what `observations` returns per session."""
        return len(Profiles._fields) * int(self.items.shape[1]) + 3

    def profiles(self, sessions: Sessions) -> Profiles:
        """Compute the mean texts of what was liked, ignored and shown lately."""
        n, turn, k = sessions.shown.shape
        shown = sessions.shown.reshape(n, -1)
        present, positive = shown >= 0, sessions.responses.reshape(n, -1)
        recent = present & (np.arange(turn * k) >= (turn - RECENT_TURNS) * k)
        last = positive & (np.cumsum(positive[:, ::-1], axis=1)[:, ::-1] == 1)
        chosen = np.stack([positive, last, present & ~positive, recent], axis=1).astype(np.float32)  # [n, 4, tK]
        sums = chosen @ self.items[shown]
        means = sums / np.maximum(chosen.sum(axis=2, keepdims=True), 1)
        return Profiles(*means.transpose(1, 0, 2))

    def observations(self, sessions: Sessions) -> Floats:
        """[n, observation_dim]: the profiles, how far the session is, how much of it was liked, and whether any was."""
        n, turn, _ = sessions.shown.shape
        progress = np.full(n, turn / self._max_turn)
        likes = sessions.responses.sum(axis=(1, 2))
        rate = likes / np.maximum((sessions.shown >= 0).sum(axis=(1, 2)), 1)
        scalars = np.stack([progress, rate, likes > 0], axis=1).astype(np.float32)
        return np.concatenate([*self.profiles(sessions), scalars], axis=1)


def recent_items(shown: Ints, chosen: Bools, limit: int) -> Ints:
    """[n, limit] the last `limit` chosen items of each session, in no order; -1 where there are fewer."""
    n = len(shown)
    flat, mask = shown.reshape(n, -1), (chosen & (shown >= 0)).reshape(n, -1)
    from_end = np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] - 1
    result = np.full((n, limit), -1, flat.dtype)
    row, column = np.nonzero(mask & (from_end < limit))
    result[row, from_end[row, column]] = flat[row, column]
    return result
