"""Style of the page's plots; the same records give the same files."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1c1e21", "#9aa0a8", "#ffffff"
GROUP_COLOURS = {
    "judgements": "#0072B2",
    "live": "#D55E00",
    "texts": "#009E73",
    "logs": "#E0A83C",
    "chance": "#a3a9b1",
    "history": "#a9c9dd",
}
GROUP_TITLES = {
    "judgements": "ours, pre-trained: judgements, no logs",
    "live": "ours, learning",
    "texts": "closeness of texts, no logs",
    "logs": "fitted to other users' logs",
    "chance": "chance",
    "history": "ours, of an earlier state of the code",
}
# Okabe and Ito's colours, for methods that are lines.
LINE_COLOURS = {
    "random": "#a3a9b1",
    "popularity": "#666d76",
    "text_mean": "#009E73",
    "text_nearest": "#7FCFB9",
    "text_plain": "#B5D9A5",
    "item_knn": "#E69F00",
    "ease": "#CC79A7",
    "ials": "#8C4A73",
    "sasrec": "#8C7B00",
    "live": "#D55E00",
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


def line_colour(method: str) -> str:
    """Return the method's colour, the same in every plot; our methods without a colour get that of `live`."""
    return LINE_COLOURS.get(method, LINE_COLOURS["live"])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Figure) -> bytes:
    """The figure as SVG, without a date."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
