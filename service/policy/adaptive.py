"""The policy that serves: the pre-trained one, the learned one, or both together (A-iALP_ft, A-iALP_ap).

A-iALP_ap keeps the pre-trained policy frozen and mixes in a second one that learns, pi = (1 - w) pi_pre + w pi_new, as
probabilities, so that the propensity of what is shown stays exact. The paper leaves the mixture open; both kinds here
are reconstructions: `fixed` has one w, `adaptive` takes w(s) from a softmax over E_{a ~ pi_i} Q(s, a) / temperature
(policy expansion, Zhang, Xu and Yu, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from service.policy.candidates import candidates_of, is_repeated, take
from service.policy.fast_scorer import FastScorer, Floats, Places, pack, sigmoid
from service.policy.networks import ItemScorer, ItemTable
from service.policy.sampling import Probs, slate_propensities
from service.policy.types import Interaction, States, unpack_states


class Variant(StrEnum):
    """What the adaptive arm serves."""

    FROZEN = "frozen"  # iALP: the pre-trained policy, never updated
    FT = "ft"  # A-iALP_ft: the pre-trained policy, fine-tuned
    AP = "ap"  # A-iALP_ap: frozen pre-trained policy and a second one that learns


class Mixture(StrEnum):
    """How A-iALP_ap weighs its two policies."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


class Arm(StrEnum):
    """Which traffic a user belongs to."""

    CONTROL = "control"  # always the pre-trained policy
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class ServingConfig:
    """What is served and how it is mixed; saved in every snapshot."""

    variant: Variant = Variant.AP
    mixture: Mixture = Mixture.ADAPTIVE
    fixed_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5  # share of the learned policy when the mixture is fixed
    # Of the adaptive mixture, in units of Q: differences of policies are small.
    temperature: Annotated[float, Meta(ge=1e-12, le=1e12)] = 0.001
    candidates: Annotated[int, Meta(ge=4)] = 512  # that a large catalogue is narrowed down to, see ServingPolicy.serve


def mixture_weights(expected_q: Probs, temperature: float) -> Probs:
    """softmax(E_i[Q] / temperature) over the first axis, [P, ...] -> [P, ...]."""
    scaled = (expected_q - expected_q.max(axis=0)) / temperature
    weights = np.exp(scaled)
    return np.asarray(weights / weights.sum(axis=0))


def masked_softmax(logits: npt.NDArray[np.float32], available: npt.NDArray[np.bool_]) -> Probs:
    """softmax over the available items, zero elsewhere; [A] (or [B, A]), float64. All zero if none is available."""
    masked = np.where(available, logits.astype(np.float64), -np.inf)
    peak = masked.max(axis=-1, keepdims=True, initial=-np.inf)
    mass = np.exp(masked - np.where(np.isfinite(peak), peak, 0.0))
    total = mass.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(mass, total, out=np.zeros_like(mass), where=total > 0))


class Query(NamedTuple):
    """A state, and what may be shown in it."""

    history: Sequence[Interaction]
    available: npt.NDArray[np.bool_]  # [A]
    arm: Arm = Arm.ADAPTIVE


@dataclass(frozen=True)
class Distribution:
    """A policy's probabilities in one state, and what they are made of."""

    probs: Probs  # [R], sums to one, zero where an item is not available
    pretrained: Probs  # [R]; equals `learned` where the pre-trained policy takes no part
    learned: Probs  # [R]; equals `pretrained` where nothing learned takes part
    weight: float  # share of `learned` in `probs`
    rows: Places | None = None  # [R] the items that the numbers are of, in ascending order; None: of all A

    def items(self, drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The items that stand at the places `drawn` [k]."""
        return drawn if self.rows is None else self.rows[drawn]

    def from_learned(self, drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """For each of `drawn` [k] whether the learned policy contributed most of its probability."""
        return self.weight * self.learned[drawn] > (1 - self.weight) * self.pretrained[drawn]

    def propensities(self, shown: npt.NDArray[np.int64]) -> Probs:
        """Propensity of each slot had the items `shown` [k], by their place in the catalogue, been drawn from this."""
        if self.rows is None:
            return slate_propensities(self.probs, shown)
        places = np.searchsorted(self.rows, shown)  # of an item that is there twice the first, which has its mass
        there = self.rows[np.minimum(places, len(self.rows) - 1)] == shown
        return slate_propensities(np.append(self.probs, 0.0), np.where(there, places, len(self.probs)))

    def of_all(self, n_items: int) -> Distribution:
        """The same with numbers for all A items."""
        if self.rows is None:
            return self
        rows = self.rows  # an item that is there twice has its probability at one of its places
        probs, pretrained, learned = (
            np.bincount(rows, part, n_items).astype(np.float64)  # integers where there is nothing to count
            for part in (self.probs, self.pretrained, self.learned)
        )
        return Distribution(probs, pretrained, learned, self.weight)


def entropy(probs: Probs) -> Probs:
    """Entropy in nats over the last axis, [..., A] -> [...]."""
    return np.asarray(-(probs * np.log(probs + np.finfo(np.float64).tiny)).sum(-1))


class DistributionBatch(NamedTuple):
    """The same for B states."""

    probs: Probs  # [B, A]
    pretrained: Probs  # [B, A]
    learned: Probs  # [B, A]
    weight: Probs  # [B]


_AT_ONCE = 64  # states whose scores are in memory together
_FEW = 8  # times the number of candidates: a catalogue up to there is scored as a whole


class ServingPolicy:
    """Answers "how likely is each item in this state" for both arms; immutable after construction."""

    def __init__(
        self,
        pretrained: ItemScorer,
        learned: ItemScorer,
        critic: ItemScorer,
        config: ServingConfig,
        like: ServingPolicy | None = None,
    ) -> None:
        """`critic` may be `learned` itself, which is then evaluated once.

        What was made of the pre-trained network of the policy `like` is made use of again if it is the same network.
        """
        self.config = config
        self.max_history = pretrained.config.max_history
        self._pretrained: tuple[ItemScorer, ItemTable]
        with torch.inference_mode():
            if like is not None and _is_same(pretrained, like._pretrained[0]):
                self._pretrained = like._pretrained
                self.__dict__["_fast_pretrained"] = like._fast_pretrained
            else:
                self._pretrained = (pretrained, pretrained.table())
            self._learned = (learned, learned.table())
            self._critic = self._learned if critic is learned else (critic, critic.table())

    # Made when they are first used: those who ask for batches alone have no use for them.
    @cached_property
    def _fast_pretrained(self) -> FastScorer:
        return FastScorer(*self._pretrained)

    @cached_property
    def _fast_learned(self) -> FastScorer:
        return FastScorer(*self._learned)

    @cached_property
    def _fast_critic(self) -> FastScorer:
        return self._fast_learned if self._critic is self._learned else FastScorer(*self._critic)

    @property
    def n_items(self) -> int:
        """Number of items A."""
        return self._pretrained[0].n_items

    def distribution(
        self, history: Sequence[Interaction], available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE
    ) -> Distribution:
        """Probabilities of all A items in the state `history`, over those that are `available` [A]."""
        return self.serve([Query(history, available, arm)])[0].of_all(len(available))

    @property
    def is_narrowed(self) -> bool:
        """Whether what is served is chosen among candidates, since there are so many items."""
        return self.n_items > _FEW * self.config.candidates

    def probabilities(self, states: States, available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE) -> Probs:
        """What is served in B states, over the items that are `available` [B, A]; [B, A]."""
        if not self.is_narrowed:
            return self.distributions(states, available, arm).probs
        queries = [Query(past, mask, arm) for past, mask in zip(unpack_states(states), available, strict=True)]
        return np.array([served.of_all(self.n_items).probs for served in self.serve(queries)])

    def serve(self, queries: Sequence[Query], among: Places | None = None) -> list[Distribution]:
        """For each query its distribution; together they cost less than one by one.

        In a large catalogue the policies choose among `ServingConfig.candidates`, and their probabilities are exact for
        these: the first ones by each network's f without closeness, and again with its optimism. `among` [B, R], each
        row in ascending order, names others instead.
        """
        served: dict[int, Distribution] = {}
        for variant in Variant:
            alike = [n for n, query in enumerate(queries) if self._variant(query.arm) == variant]
            for start in range(0, len(alike), _AT_ONCE):
                group = alike[start : start + _AT_ONCE]
                rows = None if among is None else among[group]
                served.update(zip(group, self._served(variant, [queries[n] for n in group], rows), strict=True))
        return [served[n] for n in range(len(queries))]

    def _served(self, variant: Variant, queries: Sequence[Query], rows: Places | None) -> list[Distribution]:
        """Of queries that want the same variant."""
        before = self._fast_pretrained if variant != Variant.FT else None
        after = self._fast_learned if variant != Variant.FROZEN else None
        sessions = pack([query.history for query in queries], self.max_history)
        absent = np.array([~query.available for query in queries])  # [B, A]
        of_before = before.plain(sessions) if before is not None else None
        of_after = after.plain(sessions) if after is not None else None
        if of_before is not None and of_after is not None and after is not None:
            of_after += after.prior_gain * of_before
        if rows is None and self.is_narrowed:
            rows = candidates_of([(before, of_before), (after, of_after)], absent, self.config.candidates)
        if rows is not None:
            absent = take(absent, rows) | is_repeated(rows)
        repeated: Floats | None = None
        pretrained = np.empty(0)
        if before is not None and of_before is not None:
            near = before.near(sessions, rows)
            repeated = before.repeated(near)
            pretrained = before.policy(before.advantage(take(of_before, rows) + repeated, near), rows, absent)[0]
        if after is None or of_after is None:
            return _distributions(rows, pretrained, pretrained, pretrained, np.zeros(len(queries)))
        near = after.near(sessions, rows)
        response = take(of_after, rows) + after.repeated(near)
        if repeated is not None:
            response += after.prior_gain * repeated
        advantage = after.advantage(response, near)
        learned, settled = after.policy(advantage, rows, absent)
        if before is None:
            return _distributions(rows, learned, learned, learned, np.ones(len(queries)))
        weight = np.full(len(queries), self.config.fixed_weight)
        if self.config.mixture == Mixture.ADAPTIVE:
            # What the learned policy spends on curiosity is no reason to prefer the other.
            if self._fast_critic is not after:
                critic = self._fast_critic
                near = critic.near(sessions, rows)
                advantage = critic.advantage(take(critic.plain(sessions), rows) + critic.repeated(near), near)
            q = sigmoid(advantage).astype(np.float64)
            expected = np.stack([(pretrained * q).sum(1), (settled * q).sum(1)])
            weight = mixture_weights(expected, self.config.temperature)[1]
        mixed = (1 - weight)[:, np.newaxis] * pretrained + weight[:, np.newaxis] * learned
        return _distributions(rows, mixed, pretrained, learned, weight)

    def _variant(self, arm: Arm) -> Variant:
        return Variant.FROZEN if arm == Arm.CONTROL else self.config.variant

    @torch.inference_mode()
    def distributions(
        self, states: States, available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE
    ) -> DistributionBatch:
        """Probabilities in B states, over all items that are `available` [B, A] and not over candidates alone."""
        variant = self._variant(arm)
        zeros, absent = np.zeros(len(available)), torch.from_numpy(~available)
        known: Tensor | None = None
        pretrained = np.empty(0)
        if variant != Variant.FT:
            scorer, table = self._pretrained
            encoded = scorer.encode(states, table)
            close = scorer.closeness(encoded, table)
            known = scorer.response(encoded, table, close)  # what the learned network may build on
            logits = scorer.logits(scorer.advantage(close, known).masked_fill(absent, -torch.inf))
            pretrained = masked_softmax(logits.numpy(), available)
        if variant == Variant.FROZEN:
            return DistributionBatch(pretrained, pretrained, pretrained, zeros)
        scorer, table = self._learned
        advantage = scorer.scores(states, table, known)
        learned = masked_softmax(scorer.logits(advantage.masked_fill(absent, -torch.inf)).numpy(), available)
        if variant == Variant.FT:
            return DistributionBatch(learned, learned, learned, zeros + 1.0)
        weight = zeros + self.config.fixed_weight
        if self.config.mixture == Mixture.ADAPTIVE:
            # What the learned policy spends on curiosity is no reason to prefer the other.
            settled = masked_softmax((advantage / scorer.config.temperature).numpy(), available)
            if self._critic is not self._learned:
                advantage = self._critic[0].scores(states, self._critic[1])
            q = torch.sigmoid(advantage).double().numpy()
            expected = np.stack([(pretrained * q).sum(1), (settled * q).sum(1)])
            weight = mixture_weights(expected, self.config.temperature)[1]
        mixed = (1 - weight)[:, np.newaxis] * pretrained + weight[:, np.newaxis] * learned
        return DistributionBatch(mixed, pretrained, learned, weight)


def _is_same(one: ItemScorer, other: ItemScorer) -> bool:
    """Whether both give the same scores."""
    if one.config != other.config or one.n_items != other.n_items or not torch.equal(one.text, other.text):
        return False
    state, known = one.state_dict(), other.state_dict()
    return all(torch.equal(tensor, known[name]) for name, tensor in state.items())


def _distributions(
    rows: Places | None, probs: Probs, pretrained: Probs, learned: Probs, weight: Probs
) -> list[Distribution]:
    return [
        Distribution(probs[b], pretrained[b], learned[b], float(weight[b]), None if rows is None else rows[b])
        for b in range(len(probs))
    ]
