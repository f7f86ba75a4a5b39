"""The networks' scores as requests need them: `networks` in NumPy, for the sessions that are asked for at one moment.

What all items need, v(a).h(s) + bias(a), is one matrix product for all sessions together. What is left, c(s, a), needs
the cosines of items to each of the session's latest ones, and is computed for those items alone that a policy is asked
for. Scores are those of `networks` up to rounding (float32; tests hold the policy to 1e-5 for every variant).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from service.policy.networks import BIAS_PRECISION, N_LATEST, N_LIKED_LATEST, SHRINKAGE, ItemScorer, ItemTable
from service.policy.sampling import Probs
from service.policy.types import Interaction, Response

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]  # of items in the catalogue
Mask = npt.NDArray[np.bool_]


class Sessions(NamedTuple):
    """B sessions as the networks read them, oldest interaction first, padded on the right."""

    items: Places  # [B, L]
    responses: npt.NDArray[np.int8]  # [B, L] Response
    latest: Places  # [B, N_LATEST] the last few liked items and the last ones shown in vain
    n_latest: npt.NDArray[np.int64]  # [B]


def pack(histories: Sequence[Sequence[Interaction]], max_history: int) -> Sessions:
    """The most recent interactions of each history, oldest first."""
    items = np.zeros((len(histories), max_history), np.intp)
    responses = np.zeros((len(histories), max_history), np.int8)
    latest = np.zeros((len(histories), N_LATEST), np.intp)
    n_latest = np.zeros(len(histories), np.int64)
    for row, history in enumerate(histories):
        if recent := history[-max_history:]:
            items[row, : len(recent)], responses[row, : len(recent)] = zip(*recent, strict=True)
            wanted = latest_items(recent)
            latest[row, : len(wanted)] = wanted
            n_latest[row] = len(wanted)
    return Sessions(items, responses, latest, n_latest)


def latest_items(history: Sequence[Interaction]) -> list[int]:
    """The last few liked items and the last ones shown in vain, newest first."""
    wanted, liked = [], 0
    for item, response in reversed(history):
        if response == Response.POSITIVE:
            liked += 1
            if liked > N_LIKED_LATEST:
                continue
        wanted.append(item)
        if len(wanted) == N_LATEST:
            break
    return wanted


class Near(NamedTuple):
    """Closeness of items to the latest ones of their session, [B, R] each; 0 where there are none."""

    nearest: Floats
    mean: Floats


class FastScorer:
    """The numbers of an `ItemScorer` and its table, which must not change any more."""

    def __init__(self, scorer: ItemScorer, table: ItemTable) -> None:
        self.config = config = scorer.config
        self._vectors: Floats = table.vectors.detach().numpy()
        self._directions: Floats = table.directions.detach().numpy()
        # Products of few rows with [dim, A] are the fastest ones. The last row, the biases, meets a one.
        self._columns = torch.cat([table.vectors, table.bias.unsqueeze(1)], dim=1).detach().T.contiguous()
        self._direction_columns = table.directions.detach().T.contiguous()
        eye = torch.eye(config.dim)
        mixing = torch.cat([m + g * eye for m, g in zip(scorer.mixing, scorer.gain, strict=True)])
        self._mixing: Floats = mixing.detach().numpy()  # [N_PROFILES * dim, dim]
        self._level: Floats = scorer.level.detach().numpy()
        self._repeat = tuple(np.float32(x) for x in scorer.repeat.tolist())
        self._leave = tuple(np.float32(x) for x in scorer.leave.tolist())
        self.prior_gain = np.float32(scorer.prior_gain.item())
        information = scorer.information.numpy()
        self.optimism: Floats | None = None  # [A] what is added to the advantage of what is little known
        if config.curiosity > 0 and information.any():
            self.optimism = (config.optimism / np.sqrt(BIAS_PRECISION + information)).astype(np.float32)

    def plain(self, sessions: Sessions) -> Floats:
        """f without closeness and prior, [B, A]."""
        liked, disliked, ignored = (
            sessions.responses == int(kind) for kind in (Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)
        )
        steps = np.arange(1, sessions.items.shape[1] + 1)
        last = np.where(liked, steps, 0).max(1, keepdims=True)
        weights = np.stack([liked, liked & (steps == last), disliked, ignored], 1).astype(np.float32)
        counts = weights.sum(2)
        profiles = (weights @ self._vectors[sessions.items]) / (counts[:, :, np.newaxis] + np.float32(SHRINKAGE))
        hidden = profiles.reshape(len(profiles), -1) @ self._mixing
        level = self._level[0] + np.log1p(counts[:, [0, 3]]) @ self._level[1:]
        ones = np.ones((len(hidden), 1), np.float32)
        product: Floats = torch.mm(torch.from_numpy(np.concatenate([hidden, ones], 1)), self._columns).numpy()
        product += level[:, np.newaxis]
        return product

    def near(self, sessions: Sessions, rows: Places | None) -> Near:
        """Closeness of each session's own items `rows` [B, R], or of all items, to its latest ones."""
        recent = self._directions[sessions.latest]  # [B, N_LATEST, dim]
        recent[np.arange(N_LATEST) >= sessions.n_latest[:, np.newaxis]] = 0.0
        if rows is None:
            flat = torch.from_numpy(recent.reshape(-1, recent.shape[2]))
            cosines = torch.mm(flat, self._direction_columns).numpy().reshape(*recent.shape[:2], -1)
        else:
            of = torch.from_numpy(self._directions.take(rows, 0))  # [B, R, dim]
            cosines = torch.bmm(torch.from_numpy(recent), of.transpose(1, 2)).numpy()
        np.maximum(cosines, 0.0, out=cosines)
        mean = cosines.sum(1)
        mean /= np.maximum(sessions.n_latest, 1).astype(np.float32)[:, np.newaxis]
        return Near(cosines.max(1), mean)

    def repeated(self, near: Near) -> Floats:
        """What closeness adds to f."""
        added = near.nearest * self._repeat[0]
        added += near.mean * self._repeat[1]
        return added

    def advantage(self, response: Floats, near: Near) -> Floats:
        """f - horizon sigmoid(l) for the f that is given."""
        leaving = sigmoid(near.nearest * self._leave[1] + self._leave[0])
        leaving *= np.float32(self.config.horizon)
        return np.subtract(response, leaving, out=leaving)

    def policy(self, advantage: Floats, rows: Places | None, absent: Mask) -> tuple[Probs, Probs]:
        """The actor's probabilities and those without curiosity, [B, R] of `rows` or [B, A]; zero where `absent`."""
        scale = np.float32(1 / self.config.temperature)
        scaled = advantage * scale
        scaled[absent] = -np.inf
        known = softmax(scaled)
        if self.optimism is None:
            return known, known
        probs = softmax(scaled + scale * (self.optimism if rows is None else self.optimism[rows]))
        probs *= self.config.curiosity
        probs += (1 - self.config.curiosity) * known
        return probs, known


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) in float32, without an overflow's warning."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def softmax(logits: Floats) -> Probs:
    """softmax over the last axis, some of which may be -inf; all zero if all are. Sums to one in float64."""
    peak = logits.max(-1, keepdims=True, initial=np.finfo(np.float32).min)
    mass: Probs = np.exp((logits - peak).astype(np.float64))  # float32 has no numbers for the tail
    total = mass.sum(-1, keepdims=True)
    np.divide(mass, total, out=mass, where=total > 0)
    return mass
