"""May this version serve? Checked on recent logged traffic before it is activated; every number is kept.

The off-policy estimate is self-normalised importance sampling over slots (`policy.off_policy`, as `offline evaluate`
has it) with a 95% lower bound that counts the slots of a slate as one; below a minimum effective sample size it says
nothing and does not vote.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.adaptive import ServingPolicy
from service.policy.off_policy import effective_sample_size, estimate, snips
from service.policy.sampling import slate_propensities
from service.policy.types import EMPTY_SLOT, Batch, States
from service.registry import Gate
from service.settings import Settings


class OffPolicy(NamedTuple):
    """A self-normalised estimate of a policy's reward per slot."""

    value: float
    low: float  # lower end of the 95% interval
    ess: float  # effective sample size, in slots
    logged: float  # mean reward per slot of the policies that were logged


def off_policy(policy: ServingPolicy, batch: Batch) -> OffPolicy:
    """SNIPS of `policy` on logged transitions. Masks are known only as far as the history tells (an approximation that
    scales all ratios of a state alike)."""
    probs = policy.distributions(batch.state, available_of(batch.state, policy.n_items)).probs
    rewards, ratios, slates = [], [], []
    for row, actions in enumerate(batch.actions.numpy()):
        shown = np.flatnonzero(actions != EMPTY_SLOT)
        ratio = slate_propensities(probs[row], actions[shown]) / batch.propensities[row].numpy()[shown]
        ratios.append(ratio)
        rewards.append(batch.rewards[row].numpy()[shown].astype(np.float64))
        slates.append(np.full(len(shown), row))
    reward, ratio = np.concatenate(rewards), np.concatenate(ratios)
    judged = estimate(snips(reward, ratio), np.concatenate(slates))
    logged = float(reward.mean()) if len(reward) else 0.0
    return OffPolicy(judged.value, judged.low, effective_sample_size(ratio), logged)


def available_of(states: States, n_items: int) -> npt.NDArray[np.bool_]:
    """[B, A] items that are not in the session's history."""
    available = np.ones((len(states.lengths), n_items), np.bool_)
    for row, (items, length) in enumerate(zip(states.items.numpy(), states.lengths.numpy(), strict=True)):
        available[row, items[:length]] = False
    return available


def check(new: ServingPolicy, live: ServingPolicy, batch: Batch, settings: Settings) -> Gate:
    """Judge `new`, whose weights are finite, against `live` on recent transitions; both have rows for all items."""
    available = available_of(batch.state, new.n_items)
    p = new.distributions(batch.state, available).probs
    q = live.distributions(batch.state, available).probs
    log_p = np.log(p, out=np.zeros_like(p), where=p > 0)
    log_q = np.log(q, out=np.full_like(q, -745.0), where=q > 0)
    entropy = float(-(p * log_p).sum(1).mean())
    kl = float((p * (log_p - log_q)).sum(1).mean())
    estimate = off_policy(new, batch)
    floor = estimate.logged - settings.gate_margin * abs(estimate.logged)
    reasons = []
    # Written so that a NaN (finite weights can overflow) is refused too.
    if not entropy >= settings.gate_entropy_floor:
        reasons.append("entropy")
    if not kl <= settings.gate_max_kl:
        reasons.append("kl")
    if estimate.ess >= settings.gate_min_ess and estimate.low < floor:
        reasons.append("off_policy")
    numbers = {
        "entropy": entropy,
        "kl_to_live": kl,
        "off_policy_value": estimate.value,
        "off_policy_low": estimate.low,
        "logged_value": estimate.logged,
        "ess": estimate.ess,
    }
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}  # JSON knows no others
    return Gate(passed=not reasons, reasons=tuple(reasons), numbers=finite)
