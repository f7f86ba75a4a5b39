"""Plots with a panel an environment: the mixture against its frozen part, and what a judge's accuracy is worth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, StrMethodFormatter

from simulator.experiments.analysis.comparison import WINDOW, window_differences, worse, worse_by_holm
from simulator.experiments.analysis.judge_claims import STRETCHES, JudgeCurve, judge_curve
from simulator.experiments.analysis.results import ALL, PROTOCOL, Results
from simulator.experiments.pages.plot_style import COLOURS, FAINT, INK, colour_of, new_figure

_ALONE, _CORRECTED = "#b00020", "#000000"


def windows(results: Results) -> Figure | None:
    """`ialp_ap` minus `ialp_frozen` in every window of sessions."""
    pairs = {e: results.pair(e, "ialp_ap", "ialp_frozen", ALL) for e in results.data_sets}
    shown = {e: pair.seeds for e, pair in pairs.items() if not pair.missing}
    if not shown:
        return None
    rows = (len(shown) + 1) // 2
    figure = new_figure(9, 2.6 * rows + 0.7)
    figure.suptitle(f"ialp_ap minus ialp_frozen: reward in windows of {WINDOW} sessions", x=0.01, ha="left")
    panels = figure.subplots(rows, 2, squeeze=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (environment, seeds) in zip(panels.flat, shown.items(), strict=False):
        _window_panel(results, environment, seeds, axes)
        axes.set_title(results.environment_title(environment))
        axes.set(xlabel="sessions", xlim=(0, PROTOCOL.sessions), ylabel="difference per session")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _shared_legend(figure, panels.flat)
    return figure


def _window_panel(results: Results, environment: str, seeds: tuple[int, ...], axes: Axes) -> None:
    mixed, frozen = (results.cells[environment][method].curves(seeds=seeds) for method in ("ialp_ap", "ialp_frozen"))
    differences = window_differences(mixed, frozen)
    at = np.array([(window.first + window.last) / 2 for window in differences])
    means = np.array([window.difference.mean for window in differences])
    halves = np.array([window.difference.high - window.difference.mean for window in differences])
    alone, corrected = worse(differences), worse_by_holm(differences)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    kinds = (
        (~alone, COLOURS["ialp_ap"], "o", "not significantly worse"),
        (alone & ~corrected, _ALONE, "v", "worse, taken alone"),
        (corrected, _CORRECTED, "X", "worse, corrected (Holm)"),
    )
    for chosen, colour, marker, label in kinds:
        if chosen.any():
            axes.errorbar(
                at[chosen], means[chosen], halves[chosen], fmt=marker, color=colour, ms=4.5, elinewidth=1.3, label=label
            )


def judges(results: Results) -> Figure | None:
    """Benefit of a prior by the accuracy of its simulated judge."""
    curves = {e: {s: judge_curve(results, e, measure) for s, measure in STRETCHES.items()} for e in results.data_sets}
    shown = [e for e, by_stretch in curves.items() if any(by_stretch.values())]
    if not shown:
        return None
    stretches = [s for s in STRETCHES if any(curves[e][s] for e in shown)]
    figure = new_figure(9, 2.7 * len(shown) + 0.5)
    panels = figure.subplots(len(shown), len(stretches), squeeze=False)
    for row, environment in zip(panels, shown, strict=True):
        for axes, stretch in zip(row, stretches, strict=True):
            if (curve := curves[environment][stretch]) is not None:
                _judge_panel(results, environment, axes, curve)
            axes.set_title(f"{results.environment_title(environment)}, {stretch}")
        row[0].set_ylabel("benefit over\nthe learner from scratch")
    for axes in panels[-1]:
        axes.set_xlabel("accuracy of the simulated judge")
    _shared_legend(figure, panels.flat)
    return figure


def _judge_panel(results: Results, environment: str, axes: Axes, curve: JudgeCurve) -> None:
    mean, low, high = (np.array([getattr(i, end) for i in curve.benefit]) for end in ("mean", "low", "high"))
    axes.axhline(1.0, color=FAINT, linewidth=0.9)
    axes.fill_between(curve.accuracy, low, high, color=FAINT, alpha=0.35, linewidth=0)
    axes.plot(curve.accuracy, mean, "o-", color=INK, markersize=4, linewidth=1.5, label="simulated judges")
    for method, benefit in curve.models.items():
        colour, at = colour_of(method), curve.place(benefit.mean)
        label = results.cells[environment][method].title
        axes.axhline(benefit.mean, color=colour, linewidth=1.2, linestyle=(0, (4, 2)), label=label)
        axes.axhspan(benefit.low, benefit.high, color=colour, alpha=0.1, linewidth=0)
        if np.isfinite(at):
            axes.plot([at], [benefit.mean], "D", color=colour, markersize=6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{100 * (ratio - 1):+.3g}%"))
    axes.margins(y=0.08)


def _shared_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend below all panels; what has the same name in several stands in it once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5), fontsize=9)
