"""Style of the plots: colours and places of names; the same records give the same files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.optimize import isotonic_regression

from simulator.experiments.analysis.comparison import Floats
from simulator.experiments.analysis.results import Runs

LegendPlace = Literal["best", "lower right"]
INK, FAINT, PAPER = "#1c1e21", "#9aa0a8", "#ffffff"
# Okabe and Ito's colours for the methods that every plot has; others get one of the rest, by their name.
COLOURS = {
    "oracle": "#1c1e21",
    "random": "#a3a9b1",
    "popularity": "#666d76",
    "a2c": "#E69F00",
    "boltzmann": "#009E73",
    "ialp_frozen": "#56B4E9",
    "ialp_ft": "#0072B2",
    "ialp_ap": "#D55E00",
    "ialp_ap_fixed": "#F0A070",
    "linucb": "#CC79A7",
    "linear_ts": "#8C4A73",
    "text_ft": "#8C7B00",
    "item_ft": "#6A5ACD",
    "smollm2_ft": "#A0522D",
}
_REST = ("#AA4499", "#882255", "#999933", "#44AA99", "#661100", "#6699CC", "#888888", "#117733")
GROUP_COLOURS = {
    "ialp": "#0072B2",
    "control": "#A98FD0",
    "learner": "#009E73",
    "baseline": "#E0A83C",
    "logs": "#B5651D",
    "ceiling": "#4a4f57",
}
GROUP_TITLES = {
    "ialp": "iALP / A-iALP",
    "control": "control prior",
    "learner": "ours, from scratch",
    "baseline": "others' methods",
    "logs": "others' methods, given logs",
    "ceiling": "knows the truth",
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "svg.hashsalt": "ialp",
    "svg.fonttype": "path",
    "path.simplify": False,
}


def colour_of(method: str) -> str:
    """Return the method's colour, the same in every plot."""
    place = int(hashlib.sha256(method.encode()).hexdigest(), 16) % len(_REST)
    return COLOURS.get(method, _REST[place])


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Figure, file_format: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else None
    figure.savefig(file, format=file_format, dpi=110, metadata=metadata)
    return file.getvalue()


def group_legend(axes: Axes, shown: list[Runs], place: LegendPlace) -> None:
    groups = [group for group in GROUP_COLOURS if any(runs.group == group for runs in shown)]
    handles = [Patch(color=GROUP_COLOURS[group], label=GROUP_TITLES[group]) for group in groups]
    if handles:
        axes.legend(handles=handles, loc=place, fontsize=9)


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Each line's name at its end (level, name, colour), moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    places = _apart(np.array([level for level, _, _ in ends]), 0.047 * (top - bottom), bottom, top)
    for (level, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (1.0, level),
            (1.035, place),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            color=colour,
            va="center",
            fontsize=9.5,
            fontweight="bold",
            arrowprops=_leader(colour, "left"),
        )


def _apart(targets: Floats, gap: float, bottom: float, top: float) -> Floats:
    """Places at least `gap` apart, in the same order, as near to the targets ones as can be (least squares)."""
    order = np.argsort(targets, kind="stable")
    steps = gap * np.arange(len(targets))
    places = np.empty_like(targets)
    # Below the top there has to be room for all names above, above the bottom for all below.
    nearest = isotonic_regression(targets[order] - steps).x
    places[order] = np.clip(nearest, bottom + gap / 2, top - gap * (len(targets) - 1)) + steps
    return places


def point_labels(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside the points (x, y, name), each in the place that covers least of what is there already."""
    if not points:
        return
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    pixels = axes.transData.transform([(x, y) for x, y, _ in points])
    taken: list[Box] = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in pixels]
    window = axes.get_window_extent()
    inside = (window.x0, window.y0, window.x1, window.y1)
    for (x, y), (at_x, at_y, label) in zip(pixels, points, strict=True):
        size = (4.9 * len(label) * unit, 10.5 * unit)
        boxes = [_box(x + dx * unit, y + dy * unit, size, side) for dx, dy, side in _PLACES]
        covered = [
            sum(_overlap(box, other) for other in taken) + 10 * (size[0] * size[1] - _overlap(box, inside))
            for box in boxes
        ]
        best = int(np.argmin(np.round(covered, 3)))
        taken.append(boxes[best])
        dx, dy, side = _PLACES[best]
        far = abs(dy) > 10
        axes.annotate(
            label,
            (at_x, at_y),
            (dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
            color=INK,
            arrowprops=_leader(FAINT, side) if far else None,
        )


# Offsets in points from a point to its name, and the side of the name that is there; the nearest first.
_PLACES = tuple(
    place
    for reach in (0, 6, 12, 18, 24, 36, 48, 60)
    for place in (
        (7 + reach / 3, reach, "left"),
        (-7 - reach / 3, reach, "right"),
        (7 + reach / 3, -reach, "left"),
        (-7 - reach / 3, -reach, "right"),
        (0, 9 + reach, "center"),
        (0, -9 - reach, "center"),
    )
)


def _leader(colour: str, side: str) -> dict[str, Any]:
    """A line from a name's edge to what it names."""
    edge = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    return {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0, "relpos": (edge, 0.5)}


Box = tuple[float, float, float, float]


def _box(x: float, y: float, size: tuple[float, float], side: str) -> Box:
    width, height = size
    left = {"left": x, "right": x - width, "center": x - width / 2}[side]
    return (left, y - height / 2, left + width, y + height / 2)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
