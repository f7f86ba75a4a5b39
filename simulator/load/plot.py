"""The run as one picture: reward per session over time by arm, and latency percentiles."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from simulator.load.report import ADAPTIVE, CONTROL, Report

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; markers and dashes differ as well.
_COLOURS = {ADAPTIVE: "#0072B2", CONTROL: "#D55E00"}
_DARK_COLOURS = {ADAPTIVE: "#56B4E9", CONTROL: "#E69F00"}
_MARKERS = {ADAPTIVE: "o", CONTROL: "s"}
_DASHES = {"random": (0, (1, 1.5)), "popularity": (0, (5, 2)), "oracle": (0, (6, 2, 1, 2))}


@dataclass(frozen=True)
class Theme:
    """Colours of one of the two looks."""

    paper: str
    ink: str
    faint: str
    arms: dict[str, str]


LIGHT = Theme("#ffffff", "#1c1e21", "#8a9099", _COLOURS)
DARK = Theme("#16191d", "#e6e8eb", "#868d97", _DARK_COLOURS)


def draw(report: Report, theme: Theme = LIGHT) -> bytes:
    """The picture as PNG."""
    style: dict[Any, Any] = {
        "font.size": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": theme.paper,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "figure.facecolor": theme.paper,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        rewards, latency = figure.subplots(1, 2, width_ratios=(2.4, 1))
        _draw_rewards(rewards, report, theme)
        _draw_latency(latency, report, theme)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=144)
    return file.getvalue()


def _draw_rewards(axes: Axes, report: Report, theme: Theme) -> None:
    top = 0.0
    for name, curve in report.curves.items():
        colour = theme.arms.get(name, theme.faint)
        means = [interval.mean for interval in curve.reward]
        low = [interval.low for interval in curve.reward]
        high = [interval.high for interval in curve.reward]
        axes.fill_between(curve.at, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(curve.at, means, color=colour, marker=_MARKERS.get(name, "^"), markersize=4, label=f"{name} arm")
        top = max(top, *means, *(value for value in high if math.isfinite(value)), 0.0)
    for name, interval in report.baselines.items():
        # A ceiling far above what was earned would flatten the curves; then its value stands in the legend alone.
        label = f"{name} {interval.mean:.2f}"
        if interval.mean <= 1.6 * top:
            axes.axhline(interval.mean, color=theme.faint, linestyle=_DASHES.get(name, ":"), linewidth=1.2, label=label)
            top = max(top, interval.mean)
        else:
            axes.plot([], [], " ", label=f"{label} (above the plot)")
    top = 1.25 * top or 1.0
    _mark_versions(axes, report, theme)
    axes.set(
        xlim=(0, max(report.sessions, 1)),
        ylim=(0, top),
        xlabel="sessions, by start (small marks: first session on a new policy version)",
        ylabel="positive responses per session",
        title="Reward per session, with 95% intervals",
    )
    axes.legend(loc="upper left", ncols=3, fontsize=9, columnspacing=1.2)


def _mark_versions(axes: Axes, report: Report, theme: Theme) -> None:
    every = math.ceil(len(report.versions) / 12)
    for n, (place, version) in enumerate(report.versions):
        axes.axvline(place, ymax=0.025, color=theme.ink, linewidth=1)
        if n % every == 0:
            axes.annotate(
                f"v{version}",
                (place, 0.03),
                xycoords=("data", "axes fraction"),
                fontsize=7.5,
                color=theme.ink,
                ha="left" if place == 0 else "center",
            )


def _draw_latency(axes: Axes, report: Report, theme: Theme) -> None:
    routes = {route: p for route, p in report.latency_ms.items() if all(math.isfinite(ms) for ms in p.values())}
    height = 0.8 / max(len(routes), 1)
    for n, (route, values) in enumerate(routes.items()):
        at = [place + (n - (len(routes) - 1) / 2) * height for place in range(len(values))]
        bars = axes.barh(
            at, list(values.values()), height * 0.9, color=theme.faint, alpha=1.0 if n == 0 else 0.5, label=route
        )
        axes.bar_label(bars, fmt=lambda ms: f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}", fontsize=8, padding=3)
    names = list(next(iter(routes.values()), {}))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.25)
    axes.set(xlabel="milliseconds (log scale)", title="Latency from the intended start")
    if routes:
        axes.legend(loc="upper right", fontsize=9)
