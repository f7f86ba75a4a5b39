"""The report as one HTML page that needs nothing else: style and pictures are inside, light and dark."""

from __future__ import annotations

import base64
import math

from simulator.load.plot import DARK, LIGHT, draw
from simulator.load.report import Report
from simulator.pages.sections import marks
from simulator.pages.templates import render
from simulator.statistics import Interval
from simulator.world.kinds import WORLDS

PERSONS, WRITER = "persons", "`simulator demo`"
"""The part of the page for what `simulator personas` found; empty until it is filled."""


def page(report: Report) -> str:
    """Make the whole page."""
    dark, light = (base64.b64encode(draw(report, theme)).decode() for theme in (DARK, LIGHT))
    return render(
        "load/page.html",
        facts=_facts(report),
        headline=compare_arms(report),
        dark=dark,
        light=light,
        arms=list(report.arms),
        arm_rows=_arms(report),
        percentiles=list(report.latency_ms["/recommend"]),
        latency_rows=[(route, *(_number(ms) for ms in values.values())) for route, values in report.latency_ms.items()],
        status_rows=_statuses(report),
        marks=marks(PERSONS, WRITER),
        baseline_rows=[(name, with_range(interval)) for name, interval in report.baselines.items()],
        setting_rows=[(name, value) for name, value in report.settings.items() if value is not None],
    )


def compare_arms(report: Report) -> str:
    """Say in one sentence whether the adaptive arm is better by the end."""
    if report.gain is None:
        return "Only one arm served sessions, so there is nothing to compare."
    low, high = report.gain.low, report.gain.high
    if not math.isfinite(low):
        return "Too few sessions in the last quarter to compare the arms."
    difference = f"{report.gain.mean:+.2f} positive responses per session (95% interval {low:+.2f} to {high:+.2f})"
    if low > 0:
        return f"In the last quarter the adaptive arm earned more than the frozen control: {difference}."
    if high < 0:
        return f"In the last quarter the adaptive arm earned less than the frozen control: {difference}."
    return f"In the last quarter the arms cannot be told apart: {difference}."


def with_range(interval: Interval) -> str:
    """mean [low, high], or what there is of it."""
    if not math.isfinite(interval.mean):
        return "–"
    if not math.isfinite(interval.low):
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _facts(report: Report) -> str:
    cut = ", ".join(f"{count} {outcome}" for outcome, count in report.incomplete.items())
    kind = WORLDS.get(report.settings.get("world", ""))
    world = f"In this world {kind.users}. " if kind is not None else ""
    return (
        f"{world}{report.sessions:,} sessions in {report.seconds:.1f} s, {report.requests:,} requests"
        f" ({report.requests_per_s:.0f} per second)" + (f"; not counted: {cut}" if cut else "")
    )


def _arms(report: Report) -> list[tuple[str, ...]]:
    arms = list(report.arms.values())
    return [
        ("Sessions", *(f"{arm.reward.n:,}" for arm in arms)),
        ("Reward per session", *(with_range(arm.reward) for arm in arms)),
        ("– first quarter of the run", *(with_range(arm.first_quarter) for arm in arms)),
        ("– last quarter of the run", *(with_range(arm.last_quarter) for arm in arms)),
        ("Reward per item shown", *(f"{arm.reward_per_item:.3f}" for arm in arms)),
        ("Turns per session", *(f"{arm.turns:.2f}" for arm in arms)),
        ("Sessions that users left early", *(f"{arm.bored:.1%}" for arm in arms)),
        ("Catalogue coverage", *(f"{arm.coverage:.1%}" for arm in arms)),
        ("Diversity within a session", *(f"{arm.diversity:.3f}" for arm in arms)),
    ]


def _statuses(report: Report) -> list[tuple[str, str, str]]:
    rows = [(route, s, f"{count:,}") for route, counts in report.statuses.items() for s, count in counts.items()]
    return rows + [("warning", text, f"{count:,}") for text, count in report.warnings.items()]


def _number(value: float) -> str:
    return f"{value:,.1f}" if math.isfinite(value) else "–"
