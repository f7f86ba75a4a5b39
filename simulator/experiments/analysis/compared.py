"""Findings about two methods on common seeds: by how much one is ahead, relatively or absolutely."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from simulator.experiments.analysis.comparison import paired_difference, paired_ratio
from simulator.experiments.analysis.finding import Bound, Finding, judged, missing, noted, signed
from simulator.experiments.analysis.results import Measure, Results


class Question(NamedTuple):
    """Measure and the two methods that it compares."""

    what: str
    a: str
    b: str
    measure: Measure


def ratio(
    results: Results,
    environment: str,
    question: Question,
    bound: Bound,
    note: Callable[[float, float], str] = lambda a, b: f"{a:.2f} against {b:.2f}",
) -> Finding:
    """mean(a) / mean(b) against a bound; `note` says it in both means."""
    what, a, b, measure = question
    where, what = results.environment_title(environment), f"{what}, {a} against {b}"
    pair = results.pair(environment, a, b, measure)
    if pair.missing:
        return missing(where, what, pair.missing)
    value = paired_ratio(pair.a, pair.b)
    if math.isnan(value.mean):
        return missing(where, what, f"`{b}` has 0, so that there is no ratio")
    return judged(where, what, value, bound, note(float(pair.a.mean()), float(pair.b.mean())))


def difference(results: Results, environment: str, question: Question, bound: Bound | None = None) -> Finding:
    """mean(a - b) against a bound; without one it is no part of a goal."""
    what, a, b, measure = question
    where, what = results.environment_title(environment), f"{what}, {a} minus {b}"
    pair = results.pair(environment, a, b, measure)
    if pair.missing:
        return missing(where, what, pair.missing, part=bound is not None)
    value, note = paired_difference(pair.a, pair.b), f"{pair.a.mean():.3f} against {pair.b.mean():.3f}"
    return judged(where, what, value, bound, note) if bound else noted(where, what, value, signed, note)
