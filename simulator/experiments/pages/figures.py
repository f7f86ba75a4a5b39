"""The plots of the results' page, as SVG: the same records give the same bytes."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from simulator.experiments.analysis.comparison import Floats
from simulator.experiments.analysis.results import ALL, CEILING, LAST, PROTOCOL, Results, Runs, metric
from simulator.experiments.pages.overall_figures import judges, windows
from simulator.experiments.pages.plot_style import (
    FAINT,
    GROUP_COLOURS,
    INK,
    PAPER,
    STYLE,
    colour_of,
    end_labels,
    group_legend,
    new_figure,
    point_labels,
    saved,
)
from simulator.experiments.pages.tables import ranked
from simulator.experiments.runs.record import BIN
from simulator.statistics import mean_interval


def draw_all(results: Results, file_format: str = "svg") -> dict[str, bytes]:
    """Name -> picture; what the records have nothing for is left out."""
    figures: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        for environment in results.data_sets:
            for name, draw in (("learning", _learning), ("bars", _bars), ("coverage", _coverage)):
                if (figure := draw(results, environment)) is not None:
                    figures[f"{environment}-{name}"] = saved(figure, file_format)
        for name, overall in (("windows", windows), ("judges", judges)):
            if (figure := overall(results)) is not None:
                figures[name] = saved(figure, file_format)
    return figures


def _learning(results: Results, environment: str) -> Figure:
    """Reward per session while learning. Sessions on a log scale: the cold start is what a prior is for."""
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    for runs in _lines(results, environment):
        colour, label = colour_of(runs.method), runs.title
        if runs.group == CEILING:
            level = float(runs.values(ALL).mean())
            axes.axhline(level, color=colour, linestyle=(0, (5, 3)), linewidth=1.2)
            ends.append((level, label, colour))
            continue
        at, curves = _widening(runs.curves())
        low, mean, high = _band(curves)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(at, mean, color=colour, linewidth=1.8)
        ends.append((float(mean[-1]), label, colour))
    axes.set_xscale("log")
    axes.set(xlim=(BIN / 2, PROTOCOL.sessions), ylim=(0, None))
    axes.xaxis.set_major_locator(FixedLocator([100, 200, 500, 1000, 2000, 5000, 10_000]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set(xlabel="sessions so far (log scale)", ylabel="reward per session")
    axes.set_title(f"{results.environment_title(environment)}: learning, with 95% bands over seeds")
    end_labels(axes, ends)
    return figure


def _lines(results: Results, environment: str) -> list[Runs]:
    """At most nine: the ceiling, the simplest, the strongest baseline, learners from scratch, and A-iALP's stages."""
    methods = ["oracle", "random", "popularity", "a2c", "boltzmann", "ialp_frozen", "ialp_ft", "ialp_ap"]
    strongest = results.strongest(environment, ("baseline",))
    if strongest is not None and strongest.method not in methods:
        methods.insert(3, strongest.method)
    return [runs for method in methods if (runs := results.runs(environment, method)) is not None]


def _widening(curves: Floats) -> tuple[Floats, Floats]:
    """Means over stretches that widen with time, so that points are about evenly spread on a log scale."""
    edges = [0]
    while edges[-1] < curves.shape[1]:
        edges.append(min(edges[-1] + max(1, edges[-1] // 6), curves.shape[1]))
    at = np.array([(a + b) / 2 * BIN for a, b in pairwise(edges)])
    means = [curves[:, a:b].mean(axis=1) for a, b in pairwise(edges)]
    return at, np.array(means).T


def _band(curves: Floats) -> tuple[Floats, Floats, Floats]:
    """Low, mean and high over seeds [S, P]; with one seed the band has no width."""
    intervals = [mean_interval(column) for column in curves.T]
    mean = np.array([interval.mean for interval in intervals])
    low, high = (np.array([getattr(i, end) for i in intervals]) for end in ("low", "high"))
    return np.where(np.isnan(low), mean, low), mean, np.where(np.isnan(high), mean, high)


def _bars(results: Results, environment: str) -> Figure | None:
    """Reward over the last sessions (how good it became) and over all (what learning cost), sorted by all."""
    shown = [runs for runs in ranked(results, environment) if runs.has(ALL)]
    if not shown:
        return None
    figure = new_figure(9, 1.4 + 0.27 * len(shown))
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    everything = [mean_interval(runs.values(ALL)) for runs in shown]
    late = [mean_interval(runs.values(LAST)) for runs in shown]
    colours = [GROUP_COLOURS.get(runs.group, FAINT) for runs in shown]
    halves = [0.0 if np.isnan(i.high) else i.high - i.mean for i in everything]
    means = [interval.mean for interval in everything]
    axes.barh(
        places, means, 0.72, color=colours, xerr=halves, error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2}
    )
    axes.plot([i.mean for i in late], places, "D", color=PAPER, markeredgecolor=INK, markersize=4.5, linestyle="none")
    for place, interval, half, end in zip(places, everything, halves, late, strict=True):
        axes.annotate(
            f"{interval.mean:.2f}",
            (max(interval.mean + half, end.mean), place),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(places, [runs.title for runs in shown])
    axes.invert_yaxis()
    axes.margins(x=0.08, y=0.02)
    axes.set_xlim(left=0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"reward per session: all {PROTOCOL.sessions:,} sessions (bars, 95% intervals), the last 1,000 (diamonds)"
    )
    axes.set_title(f"{results.environment_title(environment)}: reward of all methods")
    group_legend(axes, shown, "lower right")
    return figure


def _coverage(results: Results, environment: str) -> Figure | None:
    """Both over the last sessions. Simulated judges have a plot of their own; the ceiling would flatten this one."""
    measure = metric("coverage_last_1000")
    shown = [
        runs
        for runs in ranked(results, environment)
        if runs.has(ALL) and runs.group != CEILING and runs.configuration.get("judge", {}).get("kind") != "synthetic"
    ]
    if not shown:
        return None
    figure = new_figure(9, 5.2)
    axes = figure.add_subplot()
    points = []
    for runs in shown:
        covered, reward = mean_interval(100 * runs.values(measure)), mean_interval(runs.values(LAST))
        if np.isnan(covered.mean):
            continue
        colour = GROUP_COLOURS.get(runs.group, FAINT)
        axes.errorbar(
            [covered.mean],
            [reward.mean],
            xerr=[0.0 if np.isnan(covered.high) else covered.high - covered.mean],
            yerr=[0.0 if np.isnan(reward.high) else reward.high - reward.mean],
            fmt="o",
            color=colour,
            markersize=6,
            elinewidth=1.0,
        )
        points.append((covered.mean, reward.mean, runs.title))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axes.margins(0.1)
    axes.set(
        xlabel="coverage of the catalogue, last 1,000 sessions (log scale)", ylabel="reward per session, last 1,000"
    )
    axes.set_title(f"{results.environment_title(environment)}: reward against coverage")
    group_legend(axes, shown, "best")
    point_labels(figure, axes, points)
    return figure
