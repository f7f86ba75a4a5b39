"""Finding about one part of a goal: a number, its interval, and whether it is what the goal requires."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from simulator.statistics import Interval

Format = Callable[[float], str]


class Outcome(StrEnum):
    """`uncertain`: the 95% interval reaches to the other side of what the goal asks for."""

    MET = "met"
    MET_UNCERTAIN = "met, uncertain"
    NOT_MET_UNCERTAIN = "not met, uncertain"
    NOT_MET = "not met"
    NO_DATA = "no data"
    INFORMATION = "–"  # no part of the goal


@dataclass(frozen=True)
class Finding:
    """One line of a goal's table."""

    where: str  # environment's title, or "average"
    what: str  # in words
    required: str = ""
    found: str = ""
    outcome: Outcome = Outcome.INFORMATION
    value: Interval | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.outcome in (Outcome.NO_DATA, Outcome.INFORMATION):
            return None
        return self.outcome in (Outcome.MET, Outcome.MET_UNCERTAIN)


@dataclass(frozen=True)
class Goal:
    """A goal with all that was found; it is met where every part is."""

    name: str
    text: str
    findings: tuple[Finding, ...]

    @property
    def parts(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.outcome is not Outcome.INFORMATION)

    @property
    def outcome(self) -> Outcome:
        """One part that is not met suffices for "not met"."""
        met = [finding.met for finding in self.parts]
        if any(part is False for part in met):
            return Outcome.NOT_MET
        return Outcome.MET if met and all(met) else Outcome.NO_DATA


@dataclass(frozen=True)
class Bound:
    """Limit that a goal sets for a value."""

    limit: float
    show: Format
    most: bool = False  # at most the limit, not at least
    strict: bool = False  # the limit itself does not do

    @property
    def text(self) -> str:
        sign = ("<" if self.most else ">") if self.strict else ("≤" if self.most else "≥")
        return f"{sign} {self.show(self.limit)}"

    def kept_by(self, value: float) -> bool:
        if value == self.limit:
            return not self.strict
        return value < self.limit if self.most else value > self.limit


def judged(where: str, what: str, value: Interval, bound: Bound, note: str = "") -> Finding:
    """Met or not, and whether both ends of the interval say the same."""
    met = bound.kept_by(value.mean)
    beyond_chance = not math.isnan(value.low) and bound.kept_by(value.low) == met == bound.kept_by(value.high)
    if met:
        outcome = Outcome.MET if beyond_chance else Outcome.MET_UNCERTAIN
    else:
        outcome = Outcome.NOT_MET if beyond_chance else Outcome.NOT_MET_UNCERTAIN
    return Finding(where, what, bound.text, with_interval(value, bound.show), outcome, value, note)


def counted(
    where: str, what: str, required: str, found: str, met: bool, note: str = "", value: Interval | None = None
) -> Finding:
    """The goal is itself a statement about significance, so that nothing is left uncertain."""
    return Finding(where, what, required, found, Outcome.MET if met else Outcome.NOT_MET, value, note)


def noted(where: str, what: str, value: Interval, show: Format, note: str = "") -> Finding:
    """Worth knowing, but no part of the goal."""
    return Finding(where, what, "", with_interval(value, show), Outcome.INFORMATION, value, note)


def missing(where: str, what: str, reason: str, part: bool = True) -> Finding:
    """Make a finding without a value, for the reason given."""
    return Finding(where, what, outcome=Outcome.NO_DATA if part else Outcome.INFORMATION, note=f"no data: {reason}")


def with_interval(value: Interval, show: Format) -> str:
    """`12.3 [11.8, 12.8]`; the interval is left out where there is none."""
    if math.isnan(value.low) or math.isnan(value.high):
        return show(value.mean)
    return f"{show(value.mean)} [{show(value.low)}, {show(value.high)}]"


def percent_more(ratio: float) -> str:
    """1.236 as +23.6%."""
    return f"{round(100 * (ratio - 1), 1) + 0.0:+.1f}%"  # + 0.0: no "-0.0%"


def share(value: float) -> str:
    return f"{100 * value:.1f}%"


def times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def signed(difference: float) -> str:
    return f"{round(difference, 3) + 0.0:+.3f}"


def sessions(count: float) -> str:
    return f"{count:,.0f}" if math.isfinite(count) else "never"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
