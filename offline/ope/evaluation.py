"""From a log and a target to estimates: which slates count, which estimators, which rows belong together.

Per slot: the reward of one slot if the target chose its item, the slots above it being as they were logged. Nothing is
assumed about how slots act on each other, but it is the value of one step of the target, not of its whole slates. Per
slate: the sum of a slate's rewards if the target drew all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from offline.errors import OfflineError
from offline.ope import estimators
from offline.ope.log import Log
from offline.ope.replay import replay
from offline.ope.target import Target, index_log
from service.policy.indexed_log import IndexedLog
from service.policy.off_policy import LEAST_SAMPLE, Terms, effective_sample_size, estimate, snips, unseen_part
from service.policy.sampling import Probs


@dataclass(frozen=True)
class OpeConfig:
    """Settings of the estimation; stored in the manifest."""

    folds: int = 5  # of the reward model's cross-fitting
    switch_tau: float | None = None  # ratio above which switch-DR trusts the reward model; None: default_tau
    bootstrap: int = 0  # draws of the cluster bootstrap; 0: normal intervals only
    logged_arm: str | None = None  # use only what this arm served
    keep_unverified: bool = False  # use slates whose available items are known only approximately
    seed: int = 0


class Row(NamedTuple):
    """One estimator's answer; None stands for "the log cannot tell": its weights are worth fewer than ten rows."""

    value: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Estimates of the target's reward from the log, with counts and diagnostics."""

    counts: dict[str, int]
    per_slot: dict[str, Row]
    per_slate: dict[str, Row]
    diagnostics: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data without infinities."""
        tables = {
            unit: {name: row._asdict() for name, row in rows.items()}
            for unit, rows in (("per_slot", self.per_slot), ("per_slate", self.per_slate))
        }
        return {**asdict(self), **tables}


def evaluate(
    log: Log, target: Target, config: OpeConfig, progress: Callable[[int], None] = lambda n: None
) -> Evaluation:
    """Estimate what `target` would have earned where `log` was written; `progress` is told of slates gone through.

    Raises:
        OfflineError: no slate is left to estimate from, or all are of one user.
    """
    log, counts = usable(log, config)
    indexed = index_log(log, target)
    counts["users"] = len(np.unique(indexed.user))
    counts["slots_without_row"] = int(((indexed.shown < 0) & indexed.filled).sum())
    if counts["users"] < 2:
        raise OfflineError("the log's slates are all of one user; an interval needs at least two")
    folds = min(config.folds, counts["users"])
    replayed = replay(log, indexed, target, folds, config.seed, progress)
    slots = indexed.filled
    tau = config.switch_tau if config.switch_tau is not None else estimators.default_tau(int(slots.sum()))
    owners = np.broadcast_to(indexed.user[:, np.newaxis], slots.shape)[slots]
    counts["slots"] = len(owners)
    rewards, ratios, q_logged = indexed.rewards[slots], replayed.ratios[slots], replayed.q_logged[slots]
    size = {"slot": effective_sample_size(ratios), "slate": effective_sample_size(replayed.ratios.prod(axis=1))}
    of_slates, largest = indexed.rewards.sum(axis=1), target.policy.config.largest_reward
    biases = {"switch_dr": estimate(estimators.switched_off(rewards, ratios, q_logged, tau)).value}
    return Evaluation(
        counts=dict(counts),
        per_slot={
            name: row(terms, owners, config, sample(name, rewards, size["slot"], largest), biases.get(name, 0.0))
            for name, terms in per_slot_terms(rewards, ratios, q_logged, replayed.q_target[slots], tau).items()
        },
        per_slate={
            name: row(terms, indexed.user, config, sample(name, of_slates, size["slate"], largest))
            for name, terms in per_slate_terms(indexed.rewards, replayed.ratios).items()
        },
        diagnostics=_diagnostics(replayed.ratios, indexed, tau),
    )


def usable(log: Log, config: OpeConfig) -> tuple[Log, Counter[str]]:
    """The slates that an estimate can use, and how many were left out for which reason.

    Raises:
        OfflineError: none is left.
    """
    counts: Counter[str] = Counter(logged=len(log.slates), other_arm=0, empty=0, unverified=0)
    kept = []
    for slate in log.slates:
        if config.logged_arm is not None and slate.arm != config.logged_arm:
            counts["other_arm"] += 1
        elif not slate.items:
            counts["empty"] += 1
        elif not slate.verified and not config.keep_unverified:
            counts["unverified"] += 1
        else:
            kept.append(slate)
    counts["slates"] = len(kept)
    if not kept:
        hint = "; --keep-unverified keeps the last" if counts["unverified"] else ""
        reasons = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in ("other_arm", "empty", "unverified"))
        raise OfflineError(f"no slate is left of the log's {len(log.slates)} ({reasons}){hint}")
    return replace(log, slates=tuple(kept)), counts


def per_slot_terms(rewards: Probs, ratios: Probs, q_logged: Probs, q_target: Probs, tau: float) -> dict[str, Terms]:
    """Every per-slot estimator's terms; all [n]."""
    return {
        "logged": estimators.on_policy(rewards),
        "dm": estimators.direct_method(q_target),
        "ips": estimators.ips(rewards, ratios),
        "snips": snips(rewards, ratios),
        "dr": estimators.doubly_robust(rewards, ratios, q_logged, q_target),
        "switch_dr": estimators.switch_doubly_robust(rewards, ratios, q_logged, q_target, tau),
    }


def per_slate_terms(rewards: Probs, ratios: Probs) -> dict[str, Terms]:
    """Every per-slate estimator's terms, [S]; `rewards` and `ratios` [S, K]."""
    return {
        "logged": estimators.on_policy(rewards.sum(axis=1)),
        "ips": estimators.slate_ips(rewards, ratios),
        "snips": estimators.slate_snips(rewards, ratios),
        "rips": estimators.slate_rips(rewards, ratios),
    }


class _Sample(NamedTuple):
    """Effective sample size of an estimator, in equally weighted rows, and the span of what a row may earn."""

    ess: float
    span: float


def sample(name: str, rewards: Probs, ess: float, largest: float) -> _Sample:
    """Return the effective sample size and the span of the estimator `name`.

    `ess` is that of the ratios, which not all estimators use; `largest` is a reward that a response may have, though
    none had it here.
    """
    span = max(largest, float(rewards.max())) - min(0.0, float(rewards.min()))
    return _Sample(float(len(rewards)) if name in ("logged", "dm") else ess, span)


def row(terms: Terms, clusters: npt.NDArray[np.int64], config: OpeConfig, sample: _Sample, bias: float = 0.0) -> Row:
    """An estimator's answer, with an interval that also holds where few rows have the weight."""
    if float(terms.denominators.sum()) <= 0 or sample.ess < LEAST_SAMPLE:
        return Row(None, None, None)
    value, low, high = estimate(terms, clusters)
    ends = estimators.widened(low, high, abs(bias) + unseen_part(sample.span, sample.ess))
    if config.bootstrap:
        # The same draws for every estimator: their intervals can be compared.
        drawn = estimators.bootstrap(terms, clusters, config.bootstrap, np.random.default_rng(config.seed))
        ends += estimators.widened(*drawn, abs(bias) + unseen_part(sample.span, sample.ess))
    return Row(value, *(float(end) if np.isfinite(end) else None for end in ends))


def _diagnostics(ratios: Probs, indexed: IndexedLog, tau: float) -> dict[str, float]:
    slots = ratios[indexed.filled]
    slates = ratios.prod(axis=1)
    return {
        "ess_slots": effective_sample_size(slots),
        "ess_slates": effective_sample_size(slates),
        "mean_ratio_slots": float(slots.mean()),  # 1 in expectation
        "mean_ratio_slates": float(slates.mean()),
        "max_ratio_slots": float(slots.max()),
        "switch_tau": tau,
        "switched_share": float((slots > tau).mean()),
    }
