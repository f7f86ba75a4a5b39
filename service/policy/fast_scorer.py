"""The networks' scores as requests need them: `networks` in NumPy, for the sessions of all requests of one moment.

What all items need, v(a).h(s) + bias(a), is one matrix product for all sessions together. What is left, c(s, a), needs
the cosines of items to each of the session's latest ones, and is computed only for the items that a policy chooses
among. Scores are those of `networks` up to rounding (float32; tests hold the policy to 1e-5 for every variant).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy.network_types import N_LATEST, N_LIKED_LATEST
from service.policy.networks import (
    BIAS_PRECISION,
    FEW_ANSWERS,
    SHRINKAGE,
    ItemScorer,
    NetworkConfig,
)
from service.policy.rows import Rows
from service.policy.sampling import Probs
from service.policy.taste import TASTE_DIM, most_likely_np
from service.policy.types import Features, Interaction, pack_features

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]  # of items in the catalogue
Mask = npt.NDArray[np.bool_]

LIKED, IN_VAIN = 1, 2
_COPIED = 200_000  # items up to which a copy of their vectors is worth its memory


class Sessions(NamedTuple):
    """B sessions as the networks read them, oldest interaction first, padded on the right."""

    items: Places  # [B, L]
    responses: Floats  # [B, L] from -1 to 1, 0 where padded
    latest: Places  # [B, N_LATEST] the last few liked items and the last ones shown in vain
    kinds: npt.NDArray[np.int8]  # [B, N_LATEST] of the latest: LIKED, IN_VAIN or, where padded, 0
    weights: Floats  # [B, N_LATEST] of the latest, 1 for a full like and what was shown in vain; 0 where padded
    lengths: npt.NDArray[np.int64]  # [B]
    features: npt.NDArray[np.int64]  # [B, F] of the requests' contexts, by row; 0 where padded
    strengths: Floats  # [B, F] of these


def pack(histories: Sequence[Sequence[Interaction]], max_history: int, contexts: Sequence[Features] = ()) -> Sessions:
    """The most recent interactions of each history, oldest first; `contexts` B of them or none."""
    items = np.zeros((len(histories), max_history), np.intp)
    responses = np.zeros((len(histories), max_history), np.float32)
    latest = np.zeros((len(histories), N_LATEST), np.intp)
    kinds = np.zeros((len(histories), N_LATEST), np.int8)
    weights = np.zeros((len(histories), N_LATEST), np.float32)
    lengths = np.zeros(len(histories), np.int64)
    for row, history in enumerate(histories):
        if recent := history[-max_history:]:
            items[row, : len(recent)], responses[row, : len(recent)] = zip(*recent, strict=True)
            lengths[row] = len(recent)
            if latest_few := latest_items(recent):
                n = len(latest_few)
                latest[row, :n], kinds[row, :n], weights[row, :n] = zip(*latest_few, strict=True)
    return Sessions(items, responses, latest, kinds, weights, lengths, *pack_features(contexts))


def latest_items(history: Sequence[Interaction]) -> list[tuple[int, int, float]]:
    """The last few liked items and the last ones shown in vain, newest first, each with its kind and its weight."""
    chosen: list[tuple[int, int, float]] = []
    liked = 0
    for item, response in reversed(history):
        if response > 0:
            liked += 1
            if liked <= N_LIKED_LATEST:
                chosen.append((item, LIKED, response))
        elif response == 0:
            chosen.append((item, IN_VAIN, 1.0))
        if len(chosen) == N_LATEST:
            break
    return chosen


class Near(NamedTuple):
    """Closeness of items to the latest ones of their session, [B, R] each; 0 where there are none (`Closeness`)."""

    liked: Floats
    in_vain: Floats
    mean: Floats


class Hidden(NamedTuple):
    """Sessions as scores need them: f without closeness is row.item + level for a row of `FastScorer.items`."""

    item: Floats  # [B, width + 3] h(s), z(s), one for the bias, zeros
    level: Floats  # [B, 1]


class FastScorer:
    """The numbers of an `ItemScorer` and its table, which must not change any more.

    `items` [A, width + 3] has a row for each item, one place in memory for all that is read of it: its two vectors, its
    bias, what optimism adds to its advantage, and one over the first vector's length.
    """

    def __init__(self, scorer: ItemScorer, items: Rows[np.float32], n_items: int, is_curious: bool) -> None:
        """`scorer`, which has no items, tells all but their numbers, and these are the first of `items`."""
        self.config = config = scorer.config
        self.width = width_of(config)
        self.is_curious = is_curious
        self.items: Floats = items.array[:n_items]
        self._rows, self._scorer = items, scorer
        eye = torch.eye(config.dim)
        mixing = torch.cat([m + g * eye for m, g in zip(scorer.mixing, scorer.gain, strict=True)])
        self._mixing: Floats = mixing.detach().numpy()  # [N_PROFILES * dim, dim]
        self._level: Floats = scorer.level.detach().numpy()
        self._repeat = tuple(np.float32(x) for x in scorer.repeat.tolist())
        self._leave = tuple(np.float32(x) for x in scorer.leave.tolist())
        self._context: Floats | None = None if scorer.context is None else scorer.context.numpy()
        self.prior_gain: Floats = scorer.prior_gain.detach().numpy()  # of the prior's item part and its personal part

    @classmethod
    def of(cls, scorer: ItemScorer) -> FastScorer:
        """Build the scorer of a network with all its items."""
        curious = is_curious(scorer.config, scorer.information)
        return cls(scorer.without_items(), Rows(item_numbers(scorer)), scorer.n_items, curious)

    def with_items(self, text: Tensor) -> FastScorer:
        """Return a scorer with new items of projected `text` [m, text_dim] after these; shares their memory."""
        more = item_numbers(self._scorer.with_text(text))
        return FastScorer(self._scorer, self._rows.grown(len(self), more), len(self) + len(more), self.is_curious)

    def __len__(self) -> int:
        return len(self.items)

    # Products of few rows with [dim, A] are the fastest ones, which is worth a copy where items are not very many.
    @cached_property
    def _columns(self) -> Tensor:
        items = torch.from_numpy(self.items)
        return items.T if len(self) > _COPIED else items[:, : self.width + 1].T.contiguous()

    @cached_property
    def _direction_columns(self) -> Tensor:
        items = torch.from_numpy(self.items)
        return (items[:, : self.config.dim] * items[:, -1:]).T.contiguous()

    @cached_property
    def _has_taste(self) -> bool:
        """True if any item has a taste vector, so that a session's taste can be found."""
        return bool(self.items[:, self.config.dim : self.width].any())

    def bias(self, rows: Places | None = None) -> Floats:
        """Biases: the part of f that is the same for every session, of all items [A] or of `rows`."""
        return self.items[:, self.width] if rows is None else self.items[rows, self.width]

    def optimism(self, rows: Places | None = None) -> Floats:
        """Bonus that the optimistic policy adds to the advantage of little-known items, for all [A] or for `rows`."""
        return self.items[:, -2] if rows is None else self.items[rows, -2]

    def is_unknown(self, rows: Places | None = None) -> Mask:
        """Mark the items of which next to nothing is known, among all [A] or `rows`."""
        least = self.config.optimism * (BIAS_PRECISION + FEW_ANSWERS) ** -0.5
        return np.asarray(self.optimism(rows) > np.float32(least))  # none where there is no optimism

    def hidden(self, sessions: Sessions, prior: FastScorer | None = None) -> Hidden:
        """The sessions, encoded; `prior` is the network that ours builds on."""
        responses = sessions.responses
        steps = np.arange(1, sessions.items.shape[1] + 1)
        liked, disliked = np.maximum(responses, 0), np.maximum(-responses, 0)
        ignored = ((responses == 0) & (steps <= sessions.lengths[:, np.newaxis])).astype(np.float32)
        last = np.where(liked > 0, steps, 0).max(1, keepdims=True)
        weights = np.stack([liked, liked * (steps == last), disliked, ignored], 1)
        counts = weights.sum(2)
        dim, width = self.config.dim, self.width
        shown = self.items[sessions.items]  # [B, L, width + 3]
        profiles = (weights @ shown[:, :, :dim]) / (counts[:, :, np.newaxis] + np.float32(SHRINKAGE))
        item = np.zeros((len(counts), width + 3), np.float32)
        item[:, :dim] = profiles.reshape(len(profiles), -1) @ self._mixing
        if self._has_taste:
            usual = self._level[0] + shown[:, :, width]
            if prior is not None:
                usual += self.prior_gain[0] * prior.bias(sessions.items)
            usual[disliked > 0] = 0.0
            is_liked, counted = (liked > 0).astype(np.float32), liked + disliked + ignored
            item[:, dim:width] = most_likely_np(shown[:, :, dim:width], usual, is_liked, counted)
        item[:, width] = 1.0
        level = (self._level[0] + np.log1p(counts[:, [0, 3]]) @ self._level[1:])[:, np.newaxis]
        if self._context is not None and sessions.features.size:
            effect = (sessions.strengths[:, np.newaxis] @ self._context[sessions.features])[:, 0]
            item[:, : effect.shape[1] - 1] += effect[:, :-1]
            level = level + effect[:, -1:]
        return Hidden(item, level)

    def with_prior(self, own: Floats, prior: FastScorer, of_prior: Floats, level: Floats, rows: Places | None) -> None:
        """Add to our own plain f [B, R] what we trust of the prior's, given its plain f and its level; in place."""
        of_item, personal = self.prior_gain
        own += personal * (of_prior - level)
        own += (of_item - personal) * prior.bias(rows)

    def plain(self, hidden: Hidden, rows: Places | None) -> Floats:
        """f without closeness and prior of each session's own items `rows` [B, R], or of all items [B, A]."""
        item = torch.from_numpy(hidden.item)
        if rows is None:
            product: Floats = torch.mm(item[:, : len(self._columns)], self._columns).numpy()
        else:
            of = torch.from_numpy(self.items.take(rows, 0))  # [B, R, dim + 3]
            product = torch.bmm(of, item.unsqueeze(2)).squeeze(2).numpy()
        product += hidden.level
        return product

    def near(self, sessions: Sessions, rows: Places | None) -> Near:
        """Closeness of each session's own items `rows` [B, R], or of all items, to its latest ones."""
        dim = self.config.dim
        recent = self.items[sessions.latest]  # [B, N_LATEST, width + 3]
        recent *= recent[:, :, -1:]
        recent[:, :, dim:] = 0.0
        recent *= sessions.weights[:, :, np.newaxis]
        counts = np.maximum(sessions.weights.sum(1), 1)[:, np.newaxis]
        if rows is None:
            flat = torch.from_numpy(np.ascontiguousarray(recent[:, :, :dim]).reshape(-1, dim))
            cosines = torch.mm(flat, self._direction_columns).numpy().reshape(*recent.shape[:2], -1)
            lengths = None
        else:
            of = self.items.take(rows, 0)  # [B, R, width + 3]
            cosines = torch.bmm(torch.from_numpy(recent), torch.from_numpy(of).transpose(1, 2)).numpy()
            lengths = of[:, :, -1]  # what is left of the division
        np.maximum(cosines, 0.0, out=cosines)
        mean = cosines.sum(1)
        mean /= counts
        in_vain = (cosines * (sessions.kinds == IN_VAIN)[:, :, np.newaxis]).max(1)
        liked = np.multiply(cosines, (sessions.kinds == LIKED)[:, :, np.newaxis], out=cosines).max(1)
        near = Near(liked, in_vain, mean)
        if lengths is not None:
            for part in near:
                part *= lengths
        return near

    def repeated(self, near: Near) -> Floats:
        """Return what closeness adds to f."""
        added = near.liked * self._repeat[0]
        added += near.in_vain * self._repeat[1]
        added += near.mean * self._repeat[2]
        return added

    def advantage(self, response: Floats, near: Near) -> Floats:
        """f - horizon sigmoid(l) for the f that is given."""
        leaving = np.maximum(near.liked, near.in_vain)
        leaving *= leaving
        leaving *= self._leave[1]
        leaving += self._leave[0]
        leaving = sigmoid(leaving)
        leaving *= np.float32(self.config.horizon)
        return np.subtract(response, leaving, out=leaving)

    def policy(self, advantage: Floats, rows: Places | None, absent: Mask) -> tuple[Probs, Probs]:
        """The actor's probabilities and those without curiosity, [B, R] of `rows` or [B, A]; zero where `absent`."""
        scale = np.float32(1 / self.config.temperature)
        scaled = advantage * scale
        scaled[absent] = -np.inf
        settled = softmax(scaled)
        if not self.is_curious:
            return settled, settled
        probs = softmax(scaled + scale * self.optimism(rows))
        probs *= self.config.curiosity
        probs += (1 - self.config.curiosity) * settled
        return probs, settled


def width_of(config: NetworkConfig) -> int:
    """Numbers of an item that meet those of a session: its vector and its taste."""
    return config.dim + TASTE_DIM + 1


def item_numbers(scorer: ItemScorer) -> Floats:
    """Numbers [A, width + 3] of a network's items, as `FastScorer.items` holds them."""
    with torch.inference_mode():
        table, config = scorer.table(), scorer.config
        lengths = table.vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)  # as functional.normalize has it
        optimism = config.optimism * (BIAS_PRECISION + scorer.information).rsqrt()
        numbers: Floats = torch.cat(
            [table.vectors, table.tastes, table.bias.unsqueeze(1), optimism.unsqueeze(1), 1 / lengths], dim=1
        ).numpy()
        return numbers


def is_curious(config: NetworkConfig, information: Tensor) -> bool:
    """Check whether a share of what is shown goes by optimism: not while every item is as good a guess."""
    return config.curiosity > 0 and bool(information.any())


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
