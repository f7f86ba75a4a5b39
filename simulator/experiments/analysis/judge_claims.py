"""The fifth goal: what the language models' judgements are worth, against texts alone and against simulated judges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from simulator.experiments.analysis.compared import Question, difference
from simulator.experiments.analysis.comparison import Floats, paired_ratio
from simulator.experiments.analysis.finding import Finding, Goal, counted, missing, noted, percent_more, with_interval
from simulator.experiments.analysis.results import ALL, ENVIRONMENTS, FIRST, PROTOCOL, Measure, Results, Runs
from simulator.experiments.runs.record import EARLY
from simulator.statistics import Interval

SCRATCH = "boltzmann"
ENOUGH = 2  # environments
STRETCHES = {f"first {EARLY:,} sessions": FIRST, f"all {PROTOCOL.sessions:,} sessions": ALL}
MODELS = ("ialp_ft", "smollm2_ft", "item_ft", "text_ft")  # placed on the curve of simulated judges
PARTS = (("ialp_frozen", "text_frozen"), ("ialp_ft", "text_ft"))
ASIDES = (
    ("smollm2_frozen", "text_frozen"),
    ("smollm2_ft", "text_ft"),
    ("item_frozen", "text_frozen"),
    ("item_ft", "text_ft"),
    ("ialp_frozen", "item_frozen"),
    ("ialp_ft", "item_ft"),
)

_TEXT = (
    f"The language model's judgements help beyond text similarity in at least {ENOUGH} of {len(ENVIRONMENTS)} "
    f"environments: frozen and fine-tuned, over the first {EARLY:,} and over all sessions."
)


def judges_goal(results: Results) -> Goal:
    findings: list[Finding] = []
    for a, b in PARTS:
        for stretch, measure in STRETCHES.items():
            question = Question(f"reward, {stretch}", a, b, measure)
            by_environment = [difference(results, e, question) for e in ENVIRONMENTS]
            findings += [*by_environment, _in_enough(question, by_environment)]
    for a, b in ASIDES:
        questions = [Question(f"reward, {stretch}", a, b, measure) for stretch, measure in STRETCHES.items()]
        findings += [difference(results, e, q) for q in questions for e in ENVIRONMENTS]
    for environment in ENVIRONMENTS:
        for stretch in STRETCHES:
            findings += _placements(results, environment, stretch)
    return Goal("G5", _TEXT, tuple(findings))


def _in_enough(question: Question, by_environment: list[Finding]) -> Finding:
    """Significantly better in enough environments; what is missing could still decide it."""
    what = f"{question.what}, {question.a} minus {question.b}"
    measured = [finding for finding in by_environment if finding.value is not None]
    better = [finding for finding in measured if finding.value is not None and finding.value.low > 0]
    n_missing = len(by_environment) - len(measured)
    found = f"{len(better)} of {len(measured)} significantly better"
    if len(better) < ENOUGH <= len(better) + n_missing:
        return missing("together", what, f"{found}, {n_missing} unknown")
    names = ", ".join(finding.where for finding in better)
    return counted("together", what, f"≥ {ENOUGH} better", found, len(better) >= ENOUGH, names)


# -- simulated judges --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeCurve:
    """Benefit of a fine-tuned prior by the accuracy of its simulated judge, and where the models stand on it."""

    accuracy: Floats  # [J] ascending
    benefit: tuple[Interval, ...]  # [J] reward relative to the learner from scratch: 1 is no benefit
    models: dict[str, Interval]  # method -> its benefit

    def place(self, benefit: float) -> float:
        """The accuracy with this benefit, on the non-decreasing curve nearest to the points; infinite beyond its ends.

        A flat stretch counts as its middle.
        """
        fitted = isotonic_regression(np.array([interval.mean for interval in self.benefit])).x
        levels = np.unique(fitted)
        if math.isnan(benefit) or len(levels) < 2:
            return math.nan
        middles = [float(self.accuracy[fitted == level].mean()) for level in levels]
        if benefit < levels[0] or benefit > levels[-1]:
            return -math.inf if benefit < levels[0] else math.inf
        return float(np.interp(benefit, levels, middles))


def judge_curve(results: Results, environment: str, measure: Measure) -> JudgeCurve | None:
    """None with fewer than two simulated judges."""
    points = []
    for method, runs in results.cells.get(environment, {}).items():
        accuracy = _accuracy(runs)
        benefit = _benefit(results, environment, method, measure)
        if accuracy is not None and benefit is not None:
            points.append((accuracy, benefit))
    if len({accuracy for accuracy, _ in points}) < 2:
        return None
    points.sort(key=lambda point: point[0])
    benefits = {method: _benefit(results, environment, method, measure) for method in MODELS}
    models = {method: benefit for method, benefit in benefits.items() if benefit is not None}
    return JudgeCurve(np.array([accuracy for accuracy, _ in points]), tuple(b for _, b in points), models)


def _accuracy(runs: Runs) -> float | None:
    judge = runs.configuration.get("judge", {})
    fine_tuned = runs.method.startswith("synthetic_") and runs.method.endswith("_ft")
    return float(judge["accuracy"]) if fine_tuned and judge.get("kind") == "synthetic" else None


def _benefit(results: Results, environment: str, method: str, measure: Measure) -> Interval | None:
    pair = results.pair(environment, method, SCRATCH, measure)
    return None if pair.missing else paired_ratio(pair.a, pair.b)


def _placements(results: Results, environment: str, stretch: str) -> list[Finding]:
    where, curve = results.environment_title(environment), judge_curve(results, environment, STRETCHES[stretch])
    what = f"benefit over the learner from scratch, {stretch}"
    if curve is None:
        return [missing(where, what, f"fewer than two simulated judges, or no `{SCRATCH}`", part=False)]
    findings = [
        noted(where, f"{what}, simulated judge of accuracy {accuracy:g}", benefit, percent_more)
        for accuracy, benefit in zip(curve.accuracy, curve.benefit, strict=True)
    ]
    for method, benefit in curve.models.items():
        at, low, high = (_accuracy_text(curve, value) for value in (benefit.mean, benefit.low, benefit.high))
        placed = f"{with_interval(benefit, percent_more)}: like a simulated judge of accuracy {at} ({low} to {high})"
        findings.append(Finding(where, f"{what}, {method}", found=placed, value=benefit))
    return findings


def _accuracy_text(curve: JudgeCurve, benefit: float) -> str:
    at = curve.place(benefit)
    if math.isnan(at):
        return "unknown"
    if math.isinf(at):
        return f"below {curve.accuracy[0]:g}" if at < 0 else f"above {curve.accuracy[-1]:g}"
    return f"{at:.2f}"
