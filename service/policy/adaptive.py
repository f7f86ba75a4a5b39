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
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from service.policy.networks import ItemScorer
from service.policy.sampling import Probs
from service.policy.single_state import Row, SingleStateScorer, sigmoid
from service.policy.types import Interaction, States


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


@dataclass(frozen=True)
class Distribution:
    """A policy's probabilities over the catalogue in one state, and what they are made of."""

    probs: Probs  # [A], sums to one, zero where an item is not available
    pretrained: Probs  # [A]; equals `learned` where the pre-trained policy takes no part
    learned: Probs  # [A]; equals `pretrained` where nothing learned takes part
    weight: float  # share of `learned` in `probs`

    @property
    def entropy(self) -> float:
        """Entropy in nats."""
        held = self.probs[self.probs > 0]
        return float(-(held * np.log(held)).sum())

    def sources(self, items: npt.NDArray[np.int64]) -> list[str]:
        """For each item [k] the policy that contributed most of its probability, "pretrained" or "learned"."""
        from_learned = self.weight * self.learned[items] > (1 - self.weight) * self.pretrained[items]
        return ["learned" if learned else "pretrained" for learned in from_learned]


class DistributionBatch(NamedTuple):
    """The same for B states."""

    probs: Probs  # [B, A]
    pretrained: Probs  # [B, A]
    learned: Probs  # [B, A]
    weight: Probs  # [B]


class ServingPolicy:
    """Answers "how likely is each item in this state" for both arms; immutable after construction."""

    def __init__(self, pretrained: ItemScorer, learned: ItemScorer, critic: ItemScorer, config: ServingConfig) -> None:
        """`critic` may be `learned` itself, which is then evaluated once."""
        self.config = config
        self.max_history = pretrained.config.max_history
        with torch.inference_mode():
            self._pretrained = (pretrained, pretrained.table())
            self._learned = (learned, learned.table())
            self._critic = self._learned if critic is learned else (critic, critic.table())
        self._single_pretrained = SingleStateScorer(*self._pretrained)
        self._single_learned = SingleStateScorer(*self._learned)
        self._single_critic = self._single_learned if critic is learned else SingleStateScorer(*self._critic)

    @property
    def n_items(self) -> int:
        """Number of items A."""
        return self._pretrained[0].n_items

    def distribution(
        self, history: Sequence[Interaction], available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE
    ) -> Distribution:
        """Probabilities in the state `history`, over the items that are `available` [A]."""
        variant = Variant.FROZEN if arm == Arm.CONTROL else self.config.variant
        known: Row | None = None
        if variant != Variant.FT:
            before = self._single_pretrained.score(history)
            known = before.response
            pretrained = self._single_pretrained.policy(before.advantage, available)[0]
        if variant == Variant.FROZEN:
            return Distribution(pretrained, pretrained, pretrained, 0.0)
        advantage = self._single_learned.score(history, known).advantage
        learned, settled = self._single_learned.policy(advantage, available)
        if variant == Variant.FT:
            return Distribution(learned, learned, learned, 1.0)
        weight = self.config.fixed_weight
        if self.config.mixture == Mixture.ADAPTIVE:
            if self._single_critic is not self._single_learned:
                advantage = self._single_critic.score(history).advantage
            q = sigmoid(advantage).astype(np.float64)
            expected = np.array([pretrained @ q, settled @ q])
            weight = float(mixture_weights(expected, self.config.temperature)[1])
        return Distribution((1 - weight) * pretrained + weight * learned, pretrained, learned, weight)

    @torch.inference_mode()
    def distributions(
        self, states: States, available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE
    ) -> DistributionBatch:
        """Probabilities in B states, over the items that are `available` [B, A]."""
        variant = Variant.FROZEN if arm == Arm.CONTROL else self.config.variant
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
