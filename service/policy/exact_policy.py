"""The policy over all items in torch, as the networks define it: for learners, experiments and evaluations.

What a service answers is the same in NumPy, and in a large catalogue its choice among candidates (`adaptive`).
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy.adaptive import Query, ServingPolicy
from service.policy.network_types import Prior
from service.policy.networks import FEW_ANSWERS, ItemScorer
from service.policy.sampling import Probs
from service.policy.types import States, unpack_contexts, unpack_states
from service.policy.variants import (
    Arm,
    ServingConfig,
    Variant,
    is_mixed,
    learned_weight,
    mixed,
    variant_of,
)


def masked_softmax(logits: npt.NDArray[np.float32], available: npt.NDArray[np.bool_]) -> Probs:
    """softmax over the available items, zero elsewhere; [A] (or [B, A]), float64. All zero if none is available."""
    masked = np.where(available, logits.astype(np.float64), -np.inf)
    peak = masked.max(axis=-1, keepdims=True, initial=-np.inf)
    mass = np.exp(masked - np.where(np.isfinite(peak), peak, 0.0))
    total = mass.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(mass, total, out=np.zeros_like(mass), where=total > 0))


class DistributionBatch(NamedTuple):
    """Probabilities in B states, over all items; see `Distribution`."""

    probs: Probs  # [B, A]
    pretrained: Probs  # [B, A]
    learned: Probs  # [B, A]
    weight: Probs  # [B]


class ExactPolicy:
    """Both arms' probabilities of all items; the networks must not change any more."""

    def __init__(self, pretrained: ItemScorer, learned: ItemScorer, critic: ItemScorer, config: ServingConfig) -> None:
        """`critic` may be `learned` itself, which is then evaluated once."""
        self.config = config
        self.max_history = pretrained.config.max_history
        with torch.inference_mode():
            self._pretrained = (pretrained, pretrained.table())
            self._learned = (learned, learned.table())
            self._critic = self._learned if critic is learned else (critic, critic.table())

    @property
    def n_items(self) -> int:
        """Number of items A."""
        return self._pretrained[0].n_items

    @cached_property
    def serving(self) -> ServingPolicy:
        """The policy that serves; built at first use, since those who need batches alone have no use for it."""
        return ServingPolicy.of(self._pretrained[0], self._learned[0], self._critic[0], self.config)

    def probabilities(self, states: States, available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE) -> Probs:
        """Probabilities [B, A] of what is served in B states, over the items that are `available` [B, A]."""
        if not self.serving.is_narrowed:
            return self.distributions(states, available, arm).probs
        asked = zip(unpack_states(states), available, unpack_contexts(states), strict=True)
        queries = [Query(past, mask, arm, context) for past, mask, context in asked]
        return np.array([served.of_all(self.n_items).probs for served in self.serving.serve(queries)])

    @torch.inference_mode()
    def distributions(
        self, states: States, available: npt.NDArray[np.bool_], arm: Arm = Arm.ADAPTIVE
    ) -> DistributionBatch:
        """Probabilities in B states, over all items that are `available` [B, A] and not over candidates alone."""
        variant = variant_of(self.config, arm)
        zeros, absent = np.zeros(len(available)), torch.from_numpy(~available)
        prior: Prior | None = None
        pretrained = np.empty(0)
        if variant == Variant.FROZEN or is_mixed(self.config, variant):
            scorer, table = self._pretrained
            encoded = scorer.encode(states, table)
            close = scorer.closeness(encoded, table)
            prior = Prior(table.bias, scorer.personal(encoded, table, close))  # what the learned network may build on
            response = encoded.level + prior.item + prior.personal
            logits = scorer.logits(scorer.advantage(close, response).masked_fill(absent, -torch.inf))
            pretrained = masked_softmax(logits.numpy(), available)
        if variant == Variant.FROZEN:
            return DistributionBatch(pretrained, pretrained, pretrained, zeros)
        scorer, table = self._learned
        advantage = scorer.scores(states, table, prior)
        learned = masked_softmax(scorer.logits(advantage.masked_fill(absent, -torch.inf)).numpy(), available)
        new = self._new(advantage, available)
        if not is_mixed(self.config, variant):
            weight = zeros + 1.0
            served = mixed(self.config, learned, learned, weight, new, ~available)
            return DistributionBatch(served, learned, learned, weight)

        def advantages() -> npt.NDArray[np.float32]:
            scores = advantage if self._critic is self._learned else self._critic[0].scores(states, self._critic[1])
            return np.asarray(scores.numpy())

        settled = masked_softmax((advantage / scorer.config.temperature).numpy(), available)
        weight = learned_weight(self.config, variant, pretrained, settled, advantages)
        served = mixed(self.config, pretrained, learned, weight, new, ~available)
        return DistributionBatch(served, pretrained, learned, weight)

    def _new(self, advantage: Tensor, available: npt.NDArray[np.bool_]) -> Probs | None:
        """See `ServingPolicy`."""
        scorer = self._learned[0]
        if self.config.new_items == 0 or self.n_items <= self.config.first_items or scorer.config.optimism == 0:
            return None
        is_new = np.arange(self.n_items) >= self.config.first_items
        is_new &= (scorer.information < FEW_ANSWERS).numpy()
        return masked_softmax((advantage / scorer.config.temperature).numpy(), available & is_new)
