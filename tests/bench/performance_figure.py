"""The figure of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.bench.serving import REFERENCES

Record = dict[str, Any]
TITLES = {"ours": "`POST /recommend`, all of it", **REFERENCES}
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#9aa0a8"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw(told: Record, folder: Path) -> None:
    """Write the plots."""
    with mpl.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ialp"}
    ):
        figure = _figure(8, 3)
        axes = figure.subplots()
        names = [*REFERENCES, "ours"]
        values = [median(told["hot_path"]["rounds"][name]["per_second"]) for name in names]
        axes.barh(range(len(names)), values, color=[_GREY] * len(REFERENCES) + [_BLUE])
        axes.set_yticks(range(len(names)), [TITLES[name].replace("`", "") for name in names])
        axes.set_xscale("log")
        axes.set_xlabel("requests per second, one core")
        for place, value in enumerate(values):
            axes.annotate(f" {value:,.0f}", (value, place), va="center")
        axes.set_xlim(100, max(values) * 3)
        _save(figure, folder / "performance-hot-path.svg")

        figure = _figure(6, 3)
        axes = figure.subplots()
        for number, (part, title) in enumerate(
            {"alone": "API alone", "burning": "busy neighbour", "learning": "learning"}.items()
        ):
            ms = [told["while_learning"][part][name] for name in ("p50", "p95", "p99")]
            axes.bar(np.arange(3) + 0.26 * number, ms, 0.24, label=title, color=(_GREY, _ORANGE, _BLUE)[number])
        axes.set_xticks(np.arange(3) + 0.26, ["p50", "p95", "p99"])
        axes.set_ylabel("ms")
        axes.legend(frameon=False)
        _save(figure, folder / "performance-learning.svg")

        figure = _figure(6, 3.2)
        axes = figure.subplots()
        sizes = [float(size) for size in told["learner_cost"]["by_items"]]
        update = [1e3 * seconds for seconds in told["learner_cost"]["by_items"].values()]
        request = [one["one_ms"]["p50"] for one in told["request_cost"]["by_items"].values()]
        axes.loglog(sizes, update, "o-", color=_ORANGE, label="an update by 32 slates")
        axes.loglog(sizes, request, "s--", color=_BLUE, label="one slate")
        axes.set_xlabel("items")
        axes.set_ylabel("ms")
        axes.legend(frameon=False)
        _save(figure, folder / "performance-costs.svg")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
