"""The shadow version: it computes, beside the version in service, what it would show, and serves nothing.

Each impression then also holds the shadow version's own slate and the propensities that it would have given the items
that were shown. So its reward per slot can be estimated as it goes, by self-normalised importance sampling over the
slots (`policy.off_policy`, with the slots of a slate as one cluster), from sums alone.
"""

from __future__ import annotations

import math

import msgspec

from service.policy.off_policy import LEAST_SAMPLE, unseen_part
from service.store.events import Impression
from service.store.worker_report import ShadowEstimate

_Z = 1.96


class ShadowTotals(msgspec.Struct):
    """Sums over closed impressions with ratios w = shadow / served, A = sum w r and B = sum w of a slate."""

    version: int = 0
    impressions: int = 0
    agreed: float = 0.0  # sum of the share of its slate's items that were shown
    a: float = 0.0
    b: float = 0.0
    a_squared: float = 0.0
    a_b: float = 0.0
    b_squared: float = 0.0
    w_squared: float = 0.0  # over slots
    least: float = 0.0  # reward of a slot
    most: float = 0.0

    def add(self, impression: Impression, rewards: tuple[float, ...]) -> None:
        """Count a closed impression that has the shadow version's slate."""
        shadow = impression.shadow
        assert shadow is not None and shadow.version == self.version
        ratios = [q / p for q, p in zip(shadow.propensities, impression.propensities, strict=True)]
        a = sum(w * r for w, r in zip(ratios, rewards, strict=True))
        b = sum(ratios)
        self.impressions += 1
        self.agreed += len(set(shadow.items) & set(impression.items)) / max(1, len(shadow.items))
        self.a += a
        self.b += b
        self.a_squared += a * a
        self.a_b += a * b
        self.b_squared += b * b
        self.w_squared += sum(w * w for w in ratios)
        self.least, self.most = min(self.least, *rewards, 0.0), max(self.most, *rewards, 0.0)


def estimated(totals: ShadowTotals, possible: tuple[float, float] = (0.0, 1.0)) -> ShadowEstimate:
    """The estimate from the sums; `possible`: the least and the largest reward, whatever was logged."""
    n, t = totals.impressions, totals
    agreement = t.agreed / n if n else 0.0
    ess = t.b**2 / t.w_squared if t.w_squared > 0 else 0.0
    if n < 2 or t.b <= 0 or ess < LEAST_SAMPLE:
        return ShadowEstimate(t.version, n, agreement, None, None, None, ess)
    value = t.a / t.b
    squares = max(0.0, t.a_squared - 2 * value * t.a_b + value**2 * t.b_squared)
    span = max(t.most, possible[1]) - min(t.least, possible[0])
    half = _Z * math.sqrt(n / (n - 1) * squares) / t.b + unseen_part(span, ess)
    return ShadowEstimate(t.version, n, agreement, value, value - half, value + half, ess)
