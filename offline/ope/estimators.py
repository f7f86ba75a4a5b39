"""Estimators of what a target policy would earn, from rewards logged under another policy. Pure functions of arrays.

n logged slots, each with reward r, ratio w = pi(a | s, slots above) / mu(a | s, slots above), and two predictions of a
reward model: q_logged = q(s, a) of the item shown, q_target = sum_a pi(a | s, slots above) q(s, a). Values are reward
per slot. The self-normalised estimator is `service.policy.off_policy.snips`, which the service's gate uses too.

The slate estimators weigh whole slates instead; values are reward per slate. Sources: Horvitz and Thompson 1952 (IPS);
Dudik, Langford and Li, ICML 2011 (DR); Wang, Agarwal and Dudik, ICML 2017 (switch); McInerney et al., KDD 2020 (RIPS).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from service.policy.off_policy import Terms, summed
from service.policy.sampling import Probs

_DRAWS_AT_ONCE = 64


def on_policy(rewards: Probs) -> Terms:
    """The plain mean of `rewards` [n]: what the policies that were logged earned."""
    return Terms(rewards, np.ones_like(rewards))


def direct_method(q_target: Probs) -> Terms:
    """Mean q_target, [n]. As good as the reward model; its interval knows nothing of the model's error."""
    return Terms(q_target, np.ones_like(q_target))


def ips(rewards: Probs, ratios: Probs) -> Terms:
    """Mean w r, both [n]: unbiased wherever mu > 0 where pi > 0."""
    return Terms(ratios * rewards, np.ones_like(rewards))


def doubly_robust(rewards: Probs, ratios: Probs, q_logged: Probs, q_target: Probs) -> Terms:
    """Mean q_target + w (r - q_logged), all [n] (Dudik et al. 2011): unbiased if the ratios are right or q is.

    The reward model must not have seen the slot that it predicts: fit it by cross-fitting.
    """
    return switch_doubly_robust(rewards, ratios, q_logged, q_target, math.inf)


def switch_doubly_robust(rewards: Probs, ratios: Probs, q_logged: Probs, q_target: Probs, tau: float) -> Terms:
    """DR where w <= tau and the direct method above it, all [n] (Wang et al. 2017, with DR inside).

    Bounded weights, at the price of a bias: the reward model's error where the two policies differ most. An interval of
    these terms alone does not know of it; `widened` by `switched_off` it does.
    """
    kept = np.where(ratios <= tau, ratios, 0.0)
    return Terms(q_target + kept * (rewards - q_logged), np.ones_like(rewards))


def switched_off(rewards: Probs, ratios: Probs, q_logged: Probs, tau: float) -> Terms:
    """The corrections that switch-DR goes without, all [n]. Their mean, DR's value minus switch-DR's, estimates its
    bias without bias."""
    return Terms(np.where(ratios > tau, ratios, 0.0) * (rewards - q_logged), np.ones_like(rewards))


def widened(low: float, high: float, bias: float) -> tuple[float, ...]:
    """The interval, wider by |bias| on either side (ours; conservative)."""
    return low - abs(bias), high + abs(bias)


def default_tau(n: int) -> float:
    """The square root of the number of slots: the bias vanishes as the log grows (Ionides 2008), and no reward was
    looked at to choose it, so that the interval keeps its meaning."""
    return math.sqrt(n)


def cumulative_ratios(ratios: Probs) -> Probs:
    """Product of the slot's ratio and of those above it; [S, K], 1 where a slate has no such slot."""
    return np.asarray(np.cumprod(ratios, axis=1), np.float64)


def slate_ips(rewards: Probs, ratios: Probs) -> Terms:
    """Mean (prod_k w_k) (sum_k r_k), both [S, K]: unbiased whatever the slots do to each other."""
    return Terms(ratios.prod(axis=1) * rewards.sum(axis=1), np.ones(len(rewards)))


def slate_snips(rewards: Probs, ratios: Probs) -> Terms:
    """The self-normalised form of `slate_ips`, both [S, K]."""
    weights = ratios.prod(axis=1)
    return Terms(weights * rewards.sum(axis=1), weights)


def slate_rips(rewards: Probs, ratios: Probs) -> Terms:
    """Mean sum_k (prod_{j <= k} w_j) r_k, both [S, K] (reward-interaction IPS, McInerney et al. 2020).

    Unbiased if a slot's reward does not depend on the slots below it.
    """
    return Terms((cumulative_ratios(ratios) * rewards).sum(axis=1), np.ones(len(rewards)))


def bootstrap(
    terms: Terms, clusters: npt.NDArray[np.int64] | None, n_draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95% percentile interval from drawing whole clusters with replacement (Field and Welsh 2007).

    Draws without any weight are left out; (-inf, inf) if all are.
    """
    numerators, denominators = summed(terms, clusters)
    n = len(numerators)
    values: list[float] = []
    for start in range(0, n_draws if n else 0, _DRAWS_AT_ONCE):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(_DRAWS_AT_ONCE, n_draws - start))  # [draws, C]
        tops, bottoms = counts @ numerators, counts @ denominators
        values += (tops[bottoms > 0] / bottoms[bottoms > 0]).tolist()
    if not values:
        return -math.inf, math.inf
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
