"""The gate: decides on recent logged traffic whether a version may serve, before it does; every number is kept.

What the version would have earned is estimated off policy (SNIPS over slots, `policy.off_policy.cautious`, with a
95 % interval that holds for few rows, too) and compared with what was logged, less a margin:

- surely less: it is refused;
- surely no less, or the log has enough of what it would show to tell and does not say less: it serves;
- the log cannot tell: while no version has its full share yet, it serves with a small one beside the pre-trained
  policy, so that the log will be able to tell, and with each further version twice as much. Later it serves if it is
  close to the version that serves, or if the items that it would show earned as much, whoever they were shown to; and
  is refused if neither holds.

So how sure a policy is of itself is no fault where the evidence carries it, in a catalogue of any size. Likes without
an impression are states, and no part of the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.adaptive import Distribution, Query, ServingPolicy, entropy
from service.policy.off_policy import cautious, effective_sample_size
from service.policy.types import EMPTY_SLOT, Batch, unpack_contexts, unpack_states
from service.policy.variants import Arm, Variant
from service.settings import Settings
from service.store.registry import Gate

Probabilities = npt.NDArray[np.float64]


class OffPolicy(NamedTuple):
    """Estimated reward of a policy per slot, and its 95 % interval; NaN if nothing was shown."""

    value: float
    low: float
    high: float
    ess: float  # effective sample size, in slots
    overlap: float  # mean ratio: about the share of what it would show that the log has
    logged: float  # mean reward per slot of the policies that were logged


_UNKNOWN = OffPolicy(*[math.nan] * 6)
_OVERLAP = 0.5  # from which on the log can tell


def off_policy(policy: ServingPolicy, batch: Batch, possible: tuple[float, float] = (0.0, 1.0)) -> OffPolicy:
    """SNIPS of `policy` on logged transitions. Where a request named what could be shown, that is known; elsewhere it
    is all but the history, or all where something of it was shown again (approximations: of a state's ratios the first
    scales all alike, the second makes them smaller). NaN if nothing was shown. `possible`: the least and the largest
    reward."""
    return _off_policy(policy.serve(_logged_queries(batch, policy.n_items)), batch, possible)


def _off_policy(served: Sequence[Distribution], batch: Batch, possible: tuple[float, float]) -> OffPolicy:
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
    ess, overlap = effective_sample_size(ratio), float(ratio.mean())
    least, most = possible
    found = cautious(reward, ratio, np.concatenate(slates), most, least)
    return OffPolicy(*found, ess, overlap, float(reward.mean()))


def _logged_queries(batch: Batch, n_items: int, arm: Arm = Arm.ADAPTIVE) -> list[Query]:
    """The states, with what the requests named; where they named nothing, with all that is not in their history, and
    where something of it was shown again, with all items."""
    queries = []
    named = [None] * len(batch.discount) if batch.only is None else batch.only.numpy()
    states = zip(unpack_states(batch.state), unpack_contexts(batch.state), strict=True)
    for (history, context), only, actions in zip(states, named, batch.actions.numpy(), strict=True):
        available = np.ones(n_items, np.bool_)
        seen = [past.item for past in history]
        if not np.isin(actions[actions != EMPTY_SLOT], seen).any():  # or what was seen may be shown again here
            available[seen] = False
        if only is not None and (only != EMPTY_SLOT).any():
            available[:] = False
            available[only[only != EMPTY_SLOT]] = True
        queries.append(Query(history, available, arm, context))
    return queries


def check(
    new: ServingPolicy,
    live: ServingPolicy,
    share: float,
    batch: Batch,
    rates: npt.NDArray[np.float64],
    settings: Settings,
) -> Gate:
    """Judge `new`, as it would serve at its full share, against `live`; both have rows for all items.

    Args:
        new: the policy that may serve.
        live: the last one that was let.
        share: the largest that `live` has for what is learned, 0 for the first version of all.
        batch: recent transitions, one at least. In a large catalogue both are compared on the candidates that `new`
            chooses among in their states.
        rates: mean reward of each item [A], whoever it was shown to.
        settings: the gate's.
    """
    n_items = new.n_items
    queries = _logged_queries(batch, n_items)
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
        else new.serve(_logged_queries(batch, n_items, Arm.CONTROL), among)
    )
    estimate = _off_policy(served, batch, settings.possible_rewards)
    p, q = (np.array([one.probs for one in each]) for each in (served, before))
    numbers = {
        "entropy": float(entropy(p).mean()),
        "kl_to_live": _kl(p, q),
        "coverage": coverage(_mean(served, n_items)),
        "coverage_of_frozen": coverage(_mean(frozen, n_items)),
        "off_policy_value": estimate.value,
        "off_policy_low": estimate.low,
        "off_policy_high": estimate.high,
        "logged_value": estimate.logged,
        "overlap": estimate.overlap,
        "ess": estimate.ess,
        "value_by_items": float(_mean(served, n_items) @ rates),
        "value_by_items_of_live": float(_mean(before, n_items) @ rates),
    }
    shape = (numbers["entropy"], numbers["kl_to_live"], numbers["coverage"])
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}  # JSON knows no others
    if not all(math.isfinite(number) for number in shape):  # finite weights can overflow
        return Gate(False, ("not_finite",), finite)
    return _decided(estimate, share, settings, finite)


def _decided(estimate: OffPolicy, share: float, settings: Settings, numbers: dict[str, float]) -> Gate:
    floor = estimate.logged - settings.gate_margin * abs(estimate.logged)
    if estimate.high < floor:
        return Gate(False, ("off_policy",), numbers)
    can_tell = estimate.ess >= settings.gate_min_ess and estimate.overlap >= _OVERLAP
    if (estimate.low >= floor and estimate.logged > 0) or can_tell:  # of nothing at all nobody earns less
        return Gate(True, (), numbers)
    if share == 1.0:
        usual = numbers["value_by_items_of_live"]
        is_fine = numbers["kl_to_live"] <= settings.gate_max_kl or numbers[
            "value_by_items"
        ] >= usual - settings.gate_margin * abs(usual)
        return Gate(is_fine, () if is_fine else ("unproven",), numbers)
    return Gate(True, (), numbers, min(1.0, max(2 * share, settings.gate_trial_share)))


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
