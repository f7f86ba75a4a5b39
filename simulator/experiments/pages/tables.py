"""The tables of the results' page, in Markdown: mean over seeds ± half of Student's 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simulator.experiments.analysis.comparison import average, paired_difference, paired_ratio
from simulator.experiments.analysis.results import (
    ALL,
    ENVIRONMENTS,
    FIRST,
    LAST,
    PROTOCOL,
    Measure,
    Results,
    Runs,
    metric,
)
from simulator.experiments.runs.record import Record
from simulator.statistics import Interval, mean_interval

NONE = "–"


class Column(NamedTuple):
    """`digits` after the point; a share of the catalogue is shown in percent (`scale` 100)."""

    title: str
    measure: Measure
    digits: int = 2
    scale: float = 1.0


def _cpu(record: Record) -> float:
    return record.metrics.get("cpu_seconds", math.nan) / record.sessions * PROTOCOL.sessions


REWARD = (
    Column("first 1,000", FIRST),
    Column("all", ALL),
    Column("last 1,000", LAST),
    Column("per turn", metric("reward_per_turn")),
    Column("turns", metric("length")),
)
CPU = Column("CPU s", Measure("cpu_seconds", 0, _cpu), 0)
VARIETY = (
    Column("coverage, %", metric("coverage"), 1, 100.0),
    Column("coverage, last 1,000, %", metric("coverage_last_1000"), 1, 100.0),
    Column("effective coverage, last 1,000, %", metric("effective_coverage_last_1000"), 1, 100.0),
    Column("diversity", metric("diversity"), 3),
    Column("diversity, last 1,000", metric("diversity_last_1000"), 3),
    Column("novelty, bits", metric("novelty"), 2),
)


def reward_table(results: Results, environment: str) -> str:
    """Table of every method's reward, the best first."""
    titles = ["method", "id", "group", *(column.title for column in REWARD), "regret", CPU.title, "seeds", "sessions"]
    rows = []
    for runs in ranked(results, environment):
        seeds, sessions = f"{len(runs.records)}", f"{runs.sessions:,}"
        rows.append(
            [
                runs.title,
                f"`{runs.method}`",
                runs.group,
                *(_cell(runs, column) for column in REWARD),
                _regret(results, runs),
                _cell(runs, CPU),
                f"**{seeds}**" if len(runs.records) < PROTOCOL.seeds else seeds,
                f"**{sessions}**" if runs.sessions < PROTOCOL.sessions else sessions,
            ]
        )
    return table(titles, rows, left=3)


def variety_table(results: Results, environment: str) -> str:
    """Table of the variety of what every method showed, in the same order."""
    rows = [
        [runs.title, f"`{runs.method}`", *(_cell(runs, column) for column in VARIETY)]
        for runs in ranked(results, environment)
    ]
    return table(["method", "id", *(column.title for column in VARIETY)], rows, left=2)


def summary_table(results: Results) -> str:
    """Cumulative reward relative to the strongest baseline of each environment, the best first."""
    strongest = {e: results.strongest(e, ("baseline",)) for e in results.data_sets}
    shown = [e for e, rival in strongest.items() if rival is not None]
    rows: list[tuple[float, list[str]]] = []
    for method, title in method_titles(results).items():
        ratios = {e: relative(results, e, method, strongest[e]) for e in shown}
        if all(ratio is None for ratio in ratios.values()):
            continue
        published = [ratio for e in ENVIRONMENTS if (ratio := ratios.get(e)) is not None]
        mean = average(published) if len(published) == len(ENVIRONMENTS) else None
        cells = [NONE if r is None else gain(r) for r in (*ratios.values(), mean)]
        order = mean.mean if mean is not None else -1.0 + float(np.mean([r.mean for r in ratios.values() if r]))
        rows.append((order, [title, f"`{method}`", *cells]))
    rows.sort(key=lambda row: (-row[0], row[1][1]))
    names = [results.environment_title(e) for e in ENVIRONMENTS]
    head = ["method", "id", *(results.environment_title(e) for e in shown), f"mean of {', '.join(names)}"]
    return table(head, [cells for _, cells in rows], left=2)


def relative(results: Results, environment: str, method: str, rival: Runs | None) -> Interval | None:
    """All that a method earned over what the rival did; None where they cannot be compared."""
    if rival is None:
        return None
    pair = results.pair(environment, method, rival.method, ALL)
    return None if pair.missing else paired_ratio(pair.a, pair.b)


def gain(ratio: Interval) -> str:
    """A ratio as what is gained, in percent; exactly 1 is the strongest itself."""
    if ratio.low == ratio.high == 1.0:
        return "**strongest**"
    return f"{100 * (ratio.mean - 1):+.1f}% ± {100 * (ratio.high - ratio.mean):.1f}"


def ranked(results: Results, environment: str) -> list[Runs]:
    """All methods of an environment by reward over all their sessions, the best first."""
    return sorted(results.cells[environment].values(), key=lambda runs: (-float(runs.values(ALL).mean()), runs.method))


def method_titles(results: Results) -> dict[str, str]:
    """Return the titles of all methods that have records."""
    titles: dict[str, str] = {}
    for methods in results.cells.values():
        for method, runs in methods.items():
            titles.setdefault(method, runs.title)
    return titles


def _cell(runs: Runs, column: Column) -> str:
    """A run with fewer sessions than the first stretch has no such stretch; other measures are of what it has."""
    if column.measure is FIRST and runs.sessions < FIRST.sessions:
        return NONE
    return plus_minus(mean_interval(column.scale * runs.values(column.measure)), column.digits)


def _regret(results: Results, runs: Runs) -> str:
    pair = results.pair(runs.environment, "oracle", runs.method, ALL)
    return NONE if pair.missing else plus_minus(paired_difference(pair.a, pair.b), 2)


def plus_minus(value: Interval, digits: int) -> str:
    if math.isnan(value.mean):
        return NONE
    mean = f"{value.mean:,.{digits}f}"
    return mean if math.isnan(value.high) else f"{mean} ± {value.high - value.mean:,.{digits}f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    lines = [titles, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
