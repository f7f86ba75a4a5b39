"""May this version serve? Checked on recent logged traffic before it is activated; every number is kept.

The off-policy estimate is self-normalised importance sampling over slots (`policy.off_policy`, as `offline evaluate`
has it) with a 95% lower bound that counts the slots of a slate as one; below a minimum effective sample size it says
nothing and does not vote. Likes without an impression are states, and no part of the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.adaptive import Arm, Distribution, Query, ServingPolicy, Variant, entropy
from service.policy.off_policy import effective_sample_size, estimate, snips
from service.policy.types import EMPTY_SLOT, Batch, unpack_states
from service.registry import Gate
from service.settings import Settings

Probabilities = npt.NDArray[np.float64]


class OffPolicy(NamedTuple):
    """A self-normalised estimate of a policy's reward per slot."""

    value: float
    low: float  # lower end of the 95% interval
    ess: float  # effective sample size, in slots
    logged: float  # mean reward per slot of the policies that were logged


_UNKNOWN = OffPolicy(math.nan, math.nan, math.nan, math.nan)


def off_policy(policy: ServingPolicy, batch: Batch) -> OffPolicy:
    """SNIPS of `policy` on logged transitions. Where a request named what could be shown, that is known; elsewhere it
    is all but the history (an approximation that scales all ratios of a state alike). NaN if nothing was shown."""
    return _off_policy(policy.serve(_logged_queries(batch, policy.n_items)), batch)


def _off_policy(served: Sequence[Distribution], batch: Batch) -> OffPolicy:
    rewards, ratios, slates = [], [], []
    was_shown = (batch.actions != EMPTY_SLOT).numpy()
    if batch.organic is not None:
        was_shown[batch.organic.numpy()] = False  # nobody knows what else their users saw
    if not was_shown.any():
        return _UNKNOWN
    for row, (distribution, actions) in enumerate(zip(served, batch.actions.numpy(), strict=True)):
        shown = np.flatnonzero(was_shown[row])
        ratio = distribution.propensities(actions[shown]) / batch.propensities[row].numpy()[shown]
        ratios.append(ratio)
        rewards.append(batch.rewards[row].numpy()[shown].astype(np.float64))
        slates.append(np.full(len(shown), row))
    reward, ratio = np.concatenate(rewards), np.concatenate(ratios)
    judged = estimate(snips(reward, ratio), np.concatenate(slates))
    return OffPolicy(judged.value, judged.low, effective_sample_size(ratio), float(reward.mean()))


def _queries(batch: Batch, n_items: int, arm: Arm = Arm.ADAPTIVE) -> list[Query]:
    """The states, with all items available that are not in their history."""
    queries = []
    for history in unpack_states(batch.state):
        available = np.ones(n_items, np.bool_)
        available[[past.item for past in history]] = False
        queries.append(Query(history, available, arm))
    return queries


def _logged_queries(batch: Batch, n_items: int) -> list[Query]:
    """The same, with what was available to those that named it."""
    queries = _queries(batch, n_items)
    if batch.only is not None:
        for row, only in enumerate(batch.only.numpy()):
            if (only != EMPTY_SLOT).any():
                available = np.zeros(n_items, np.bool_)
                available[only[only != EMPTY_SLOT]] = True
                queries[row] = queries[row]._replace(available=available)
    return queries


def check(new: ServingPolicy, live: ServingPolicy, batch: Batch, settings: Settings) -> Gate:
    """Judge `new`, whose weights are finite, against `live` and the frozen policy on recent transitions (one at least);
    all have rows for all items. In a large catalogue all are compared on the candidates that `new` chooses among."""
    n_items = new.n_items
    queries = _queries(batch, n_items)
    served = new.serve(queries)
    among = None
    if new.is_narrowed or live.is_narrowed:  # not always both: the number of candidates is a setting
        everything = np.arange(n_items)
        among = np.array([everything if one.rows is None else one.rows for one in served])
    before = live.serve(queries, among)
    # In A-iALP_ap it takes part in what is served, so that it has been computed.
    frozen = (
        [replace(one, probs=one.pretrained) for one in served]
        if new.config.variant == Variant.AP
        else new.serve(_queries(batch, n_items, Arm.CONTROL), among)
    )
    estimate = _off_policy(served, batch) if batch.only is None else off_policy(new, batch)
    p, q, control = (np.array([one.probs for one in each]) for each in (served, before, frozen))
    numbers = {
        "entropy": float(entropy(p).mean()),
        "kl_to_live": _kl(p, q),
        "kl_to_frozen": _kl(p, control),
        "coverage": coverage(_mean(served, n_items)),
        "coverage_of_frozen": coverage(_mean(frozen, n_items)),
        "off_policy_value": estimate.value,
        "off_policy_low": estimate.low,
        "logged_value": estimate.logged,
        "ess": estimate.ess,
    }
    floor = estimate.logged - settings.gate_margin * abs(estimate.logged)
    # Written so that a NaN (finite weights can overflow) is refused too.
    fine = {
        "entropy": numbers["entropy"] >= settings.gate_entropy_floor * math.log(n_items),
        "kl": numbers["kl_to_live"] <= settings.gate_max_kl,
        "kl_to_frozen": numbers["kl_to_frozen"] <= settings.gate_max_kl_to_frozen,
        "coverage": numbers["coverage"] >= settings.gate_coverage_floor * numbers["coverage_of_frozen"],
        "off_policy": not (estimate.ess >= settings.gate_min_ess and estimate.low < floor),
    }
    reasons = tuple(reason for reason, is_fine in fine.items() if not is_fine)
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}  # JSON knows no others
    return Gate(passed=not reasons, reasons=reasons, numbers=finite)


def coverage(probs: Probabilities) -> float:
    """Effective number of items that a policy shows: the perplexity of its mean [A] over states."""
    return float(np.exp(entropy(probs)))


def _mean(served: Sequence[Distribution], n_items: int) -> Probabilities:
    """[A] over the states."""
    probs = np.array([distribution.probs for distribution in served])
    if served[0].rows is None:
        return np.asarray(probs.mean(0))
    rows = np.array([distribution.rows for distribution in served])
    return np.bincount(rows.ravel(), probs.ravel(), n_items) / len(served)


def _kl(p: Probabilities, q: Probabilities) -> float:
    """Mean KL(p || q) over the states, nats."""
    return float((_x_log_y(p, p) - _x_log_y(p, q)).sum(1).mean())


def _x_log_y(x: Probabilities, y: Probabilities) -> Probabilities:
    """x log y, 0 where x is 0; where only y is 0, its log is that of the smallest number."""
    log_y = np.log(y, out=np.full_like(y, -745.0), where=y > 0)
    return np.multiply(x, log_y, out=np.zeros_like(x), where=x > 0)
