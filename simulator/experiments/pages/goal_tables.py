"""The goals in Markdown: one line each, and every measured part."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.experiments.analysis.finding import Finding, Goal, Outcome
from simulator.experiments.pages.tables import NONE, table

_BOLD = {Outcome.MET: "**met**", Outcome.NOT_MET: "**not met**"}


def goals_in_short(goals: Sequence[Goal]) -> str:
    """A line a goal."""
    rows = []
    for goal in goals:
        met = sum(finding.met is True for finding in goal.parts)
        uncertain = sum("uncertain" in finding.outcome for finding in goal.parts)
        unknown = sum(finding.outcome is Outcome.NO_DATA for finding in goal.parts)
        counts = f"{met} of {len(goal.parts)} met"
        counts += f", {unknown} without data" if unknown else ""
        counts += f"; {uncertain} uncertain" if uncertain else ""
        rows.append([goal.name, goal.text, _show(goal.outcome), counts])
    return table(["", "goal", "outcome", "parts"], rows, left=4)


def goal_in_detail(goal: Goal) -> str:
    """A line a part; what is no part of the goal follows with a column for each environment."""
    head = ["environment", "measured", "required", "found [95% interval]", "outcome", "note"]
    rows = [[f.where, f.what, f.required, f.found, _show(f.outcome), f.note] for f in goal.parts]
    text = f"### {goal.name}\n\n{goal.text}\n\n{table(head, rows, left=6)}"
    asides = [finding for finding in goal.findings if finding.outcome is Outcome.INFORMATION]
    return f"{text}\nNo part of the goal, but worth knowing:\n\n{_asides(asides)}" if asides else text


def _asides(findings: Sequence[Finding]) -> str:
    places = list(dict.fromkeys(finding.where for finding in findings))
    cells = {(finding.what, finding.where): finding.found or "no data" for finding in findings}
    rows = [
        [what, *(cells.get((what, place), NONE) for place in places)]
        for what in dict.fromkeys(finding.what for finding in findings)
    ]
    return table(["measured", *places], rows, left=1 + len(places))


def _show(outcome: Outcome) -> str:
    return _BOLD.get(outcome, str(outcome))
