"""Parts of the policy that serves: the pre-trained one, the learned one, or both (A-iALP_ft, A-iALP_ap).

A-iALP_ap keeps the pre-trained policy frozen and mixes in a second one that learns, pi = (1 - w) pi_pre + w pi_new, as
probabilities, so that the propensity of what is shown stays exact. The paper leaves the mixture open; both kinds here
are reconstructions: `fixed` has one w, `adaptive` takes w(s) from a softmax over E_{a ~ pi_i} A(s, a) / temperature
(policy expansion, Zhang, Xu and Yu, ICLR 2023), A being the learned network's advantage in log odds: where likes are
rare or an end is likely, sigmoid(A) is next to nothing for all policies, and would not tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

Probs = npt.NDArray[np.float64]


class Variant(StrEnum):
    """Kind of policy that the adaptive arm serves."""

    FROZEN = "frozen"  # iALP: the pre-trained policy, never updated
    FT = "ft"  # A-iALP_ft: the pre-trained policy, fine-tuned
    AP = "ap"  # A-iALP_ap: frozen pre-trained policy and a second one that learns


class Mixture(StrEnum):
    """Rule by which A-iALP_ap weighs its two policies."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


class Arm(StrEnum):
    """Part of the traffic that a user belongs to."""

    CONTROL = "control"  # always the pre-trained policy
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class ServingConfig:
    """Configuration of what is served and how it is mixed; saved in every snapshot."""

    variant: Variant = Variant.AP
    mixture: Mixture = Mixture.ADAPTIVE
    fixed_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5  # share of the learned policy when the mixture is fixed
    # Of the adaptive mixture, in log odds: that of the policies among items.
    temperature: Annotated[float, Meta(ge=1e-12, le=1e12)] = 0.1
    most_learned: Annotated[float, Meta(ge=0, le=1)] = 1.0  # share of the learned policy, whatever the mixture wants
    new_items: Annotated[float, Meta(ge=0, lt=1)] = 0.05  # share of those of which next to nothing is known
    explore: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share that goes to all items alike
    first_items: Annotated[int, Meta(ge=0)] = 2**53  # that the deployment began with; later ones are new
    largest_reward: Annotated[float, Meta(gt=0)] = 1.0  # of a response: it counts in full, smaller ones in part
    candidates: Annotated[int, Meta(ge=4)] = 512  # that a large catalogue is narrowed down to, see ServingPolicy.serve


def variant_of(config: ServingConfig, arm: Arm) -> Variant:
    """Return the variant that an arm is served."""
    return Variant.FROZEN if arm == Arm.CONTROL else config.variant


def is_mixed(config: ServingConfig, variant: Variant) -> bool:
    """Check whether the pre-trained policy takes part beside a learned one."""
    return variant == Variant.AP or (variant == Variant.FT and config.most_learned < 1)


def mixture_weights(expected: Probs, temperature: float) -> Probs:
    """softmax(E_i[A] / temperature) over the first axis, [P, ...] -> [P, ...]."""
    scaled = (expected - expected.max(axis=0)) / temperature
    weights = np.exp(scaled)
    return np.asarray(weights / weights.sum(axis=0))


def learned_weight(
    config: ServingConfig,
    variant: Variant,
    pretrained: Probs,
    settled: Probs,
    advantages: Callable[[], npt.NDArray[np.floating]],
) -> Probs:
    """Weigh the learned policy in the mixture, [B].

    Args:
        config: how the policies are mixed.
        variant: what is served.
        pretrained: the frozen policy's probabilities [B, R].
        settled: the learned policy's [B, R], without its optimism: what it spends on curiosity is no reason to prefer
            the other.
        advantages: computes the critic's advantages A(s, a) in log odds, [B, R]; called only for the adaptive mixture.
    """
    if variant == Variant.AP and config.mixture == Mixture.ADAPTIVE:
        advantage = advantages()
        expected = np.stack([(probs * advantage).sum(1) for probs in (pretrained, settled)])
        weight = mixture_weights(expected, config.temperature)[1]
    else:
        weight = np.full(len(pretrained), 1.0 if variant == Variant.FT else config.fixed_weight)
    return np.asarray(np.minimum(weight, config.most_learned))


def mixed(
    config: ServingConfig,
    pretrained: Probs,
    learned: Probs,
    weight: Probs,
    new: Probs | None,
    absent: npt.NDArray[np.bool_],
) -> Probs:
    """Mix both policies [B, R] by the learned one's `weight` [B], then give new and all items their least shares."""
    both = learned if pretrained is learned else _mix(pretrained, learned, weight)
    return with_all(with_new(both, new, config.new_items), absent, config.explore)


def _mix(pretrained: Probs, learned: Probs, weight: Probs) -> Probs:
    return np.asarray((1 - weight)[:, np.newaxis] * pretrained + weight[:, np.newaxis] * learned)


def with_new(probs: Probs, new: Probs | None, share: float) -> Probs:
    """Give new items their least `share` of `probs` [B, R], where a state has any; returns what is served [B, R]."""
    if new is None:
        return probs
    shares = share * new.any(1, keepdims=True)
    return np.asarray((1 - shares) * probs + shares * new)


def with_all(probs: Probs, absent: npt.NDArray[np.bool_], share: float) -> Probs:
    """Give a `share` of `probs` [B, R] to all items alike that are not `absent` [B, R]; returns what is served."""
    if share == 0:
        return probs
    alike = ~absent / np.maximum((~absent).sum(1, keepdims=True), 1)
    return np.asarray((1 - share) * probs + share * alike)
