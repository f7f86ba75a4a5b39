"""The watch after serving: stops the adaptive policy when it is credibly worse than the frozen control.

Both arms' rewards are followed from the start of every version on, by an anytime-valid test: the difference of the two
means has, at every moment at once and not only at a sample size fixed beforehand, the interval

    difference +- se sqrt(nu (c - 1) / (1 - c / (1 + tau))),      c = ((1 + tau) / alpha_j^2)^(1 / (nu + 1)),
    tau = n / _TUNED_TO,  n = n_a n_c / (n_a + n_c)

which inverts the t-test's mixture martingale (Lai 1976; Wang & Ramdas 2025). With many degrees of freedom nu it is
Robbins' normal mixture (1970), se sqrt((1 + 1/tau) log((1 + tau) / alpha_j^2)), as A/B tests use it (Johari et al.
2022; Waudby-Smith et al. 2024). Versions share the error: alpha_j = alpha / (j (j + 1)) for the j-th, so that over a
deployment's whole life the probability of a false alarm is at most alpha.

The arms are drawn by user, so it is users, not impressions, that are independent: standard errors are taken over
buckets of users (a hash), whose totals run on across versions. A small deployment's control has few users, which
makes nu small and the interval wide, but does not leave it unwatched.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from service.store import sessions
from service.store.worker_report import LEAST_GROUPS, Finding, Power, worth_noticing

BUCKETS = 64
_TUNED_TO = 20.0  # small, since the shares of alpha soon are: at n of some hundreds it is about as narrow as it can be
_MOST_SEGMENTS = 64
_ARMS = {"control": 0, "adaptive": 1}
_Z, _Z_FREEDOM = 1.96, 19.0  # and from how many degrees of freedom on it will do

Totals = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """Mean reward of the adaptive arm less the control's, per impression."""

    value: float
    se: float
    n: float  # effective sample size of the comparison
    freedom: float  # degrees of freedom of `se` (Welch-Satterthwaite)
    control: float  # mean of the control


class Segment(msgspec.Struct):
    """Rewards earned while a version was the newest; `rank` counts versions since the deployment began."""

    version: int
    rank: int
    totals: list[float]  # [arm, (impressions, reward), bucket], flat

    def array(self) -> Totals:
        return np.array(self.totals).reshape(2, 2, BUCKETS)


class ArmWatchState(msgspec.Struct):
    """The whole state of a watch, for a checkpoint."""

    segments: list[Segment] = []
    started: int = 0
    # First and last of the versions that were rolled back, whose slates do not count any more.
    dismissed: tuple[int, int] = msgspec.field(default=(0, 0), name="condemned")


class ArmWatch:
    """The rewards of both arms, by version."""

    def __init__(self, margin: float, alpha: float) -> None:
        """`margin`: share of the control's reward by which the adaptive arm may be worse; `alpha`: see above."""
        self._margin, self._alpha = margin, alpha
        self.state = ArmWatchState()
        self._totals: list[Totals] = []

    def add(self, arm: str, version: int, user: str, reward: float) -> None:
        """Count a closed impression."""
        first, last = self.state.dismissed
        if arm not in _ARMS or first <= version <= last:
            return
        place = next((n for n, s in enumerate(self.state.segments) if s.version == version), None)
        if place is None:
            place = self._begin(version)
        bucket = int(sessions.share_of(user, "watch") * BUCKETS)
        self._totals[place][_ARMS[arm], :, bucket] += (1.0, reward)

    def _begin(self, version: int) -> int:
        state = self.state
        state.started += 1
        state.segments.append(Segment(version, state.started, []))
        self._totals.append(np.zeros((2, 2, BUCKETS)))
        if len(state.segments) > _MOST_SEGMENTS:  # the two oldest become one
            del state.segments[1]
            self._totals[0] = self._totals[0] + self._totals.pop(1)
        return len(state.segments) - 1

    def findings(self) -> list[Finding]:
        """Return the test's result since the start of each version, where it has one, oldest first."""
        found: list[Finding] = []
        total = np.zeros((2, 2, BUCKETS))
        for segment, totals in zip(reversed(self.state.segments), reversed(self._totals), strict=True):
            total = total + totals
            difference = compare(total)
            alpha = self._alpha / (segment.rank * (segment.rank + 1))
            if difference is not None and math.isfinite(half := width(difference, alpha)):
                low, high = difference.value - half, difference.value + half
                found.append(Finding(segment.version, difference.value, low, high, difference.control, alpha))
        return found[::-1]

    def power(self) -> Power | None:
        """Return the loss that would be noticed by now; None before anything that counts was served."""
        if not self.state.segments:
            return None
        total = np.sum(self._totals, axis=0)
        groups, control = int((total[:, 0] > 0).sum(1).min()), int(total[0, 0].sum())
        difference, first = compare(total), self.state.segments[0]
        if difference is None or difference.control <= 0:
            return Power(groups, control, None, None)
        half = width(difference, self._alpha / (first.rank * (first.rank + 1))) / difference.control
        if not math.isfinite(half):
            return Power(groups, control, None, None)
        # Half an interval shrinks with the root of what was seen, and a little less than that.
        more = control * ((half / max(worth_noticing(self._margin) - self._margin, 1e-3)) ** 2 - 1)
        return Power(groups, control, half + self._margin, max(0, math.ceil(more)))

    def regression(self) -> Finding | None:
        """Return the finding of the oldest version since which the adaptive arm is credibly worse; None if none is.

        Worse means by more than the margin.
        """
        return next((f for f in self.findings() if f.high < -self._margin * abs(f.control)), None)

    def safest(self, before: int = 2**62) -> int | None:
        """Return the version older than `before` whose own reward is surest to be high; None if none was good."""
        best, best_low = None, 0.0
        for segment, totals in zip(self.state.segments, self._totals, strict=True):
            difference = compare(totals) if segment.version < before else None
            if difference is not None and difference.freedom >= _Z_FREEDOM:
                low = difference.value - _Z * difference.se + self._margin * abs(difference.control)
                if low >= best_low:
                    best, best_low = segment.version, low
        return best

    def dismiss(self, first: int, last: int) -> None:
        """Begin anew without versions that were rolled back, of which some slates are still to close."""
        self.state = ArmWatchState([], self.state.started, (first, last))
        self._totals = []

    def dump(self) -> ArmWatchState:
        """The whole state."""
        for segment, totals in zip(self.state.segments, self._totals, strict=True):
            segment.totals = totals.ravel().tolist()
        return self.state

    def restore(self, state: ArmWatchState) -> None:
        """Take over what `dump` gave."""
        self.state = state
        self._totals = [segment.array() for segment in state.segments]


def compare(totals: Totals) -> Difference | None:
    """The arms' difference from [arm, (impressions, reward), bucket]; None while too few users are in one of them."""
    means, variances, sizes, fourth = [], [], [], 0.0
    for impressions, reward in totals:
        filled = int((impressions > 0).sum())
        if filled < LEAST_GROUPS:
            return None
        size = impressions.sum()
        mean = reward.sum() / size
        residual = reward - mean * impressions
        variances.append(filled / (filled - 1) * float((residual**2).sum()) / size**2)
        fourth += variances[-1] ** 2 / (filled - 1)
        means.append(float(mean))
        sizes.append(float(size))
    control, adaptive = sizes
    n = control * adaptive / (control + adaptive)
    variance = sum(variances)
    freedom = variance**2 / fourth if fourth > 0 else math.inf
    return Difference(means[1] - means[0], math.sqrt(variance), n, freedom, means[0])


def width(difference: Difference, alpha: float) -> float:
    """Half the interval that holds at every moment at once with probability 1 - alpha; inf while it tells nothing."""
    tau = difference.n / _TUNED_TO
    log_bound = math.log1p(tau) - 2 * math.log(alpha)
    if difference.se == 0 or math.isinf(difference.freedom):
        return difference.se * math.sqrt((1 + 1 / tau) * log_bound)
    excess = log_bound / (difference.freedom + 1)
    if excess >= math.log1p(tau):  # no t would be large enough yet
        return math.inf
    squared = difference.freedom * math.expm1(excess) / (1 - math.exp(excess) / (1 + tau))
    return difference.se * math.sqrt(squared)
