"""The plots of the page, as SVG: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from offline.benchmark.collected import Collected, dataset_title, group_of, metric, title_of
from offline.benchmark.plot_style import (
    FAINT,
    GROUP_COLOURS,
    GROUP_TITLES,
    INK,
    PAPER,
    STYLE,
    line_colour,
    new_figure,
    saved,
)
from offline.benchmark.records import Record


def draw_all(collected: Collected) -> dict[str, bytes]:
    """Name -> picture; what the records have nothing for is left out."""
    drawn: dict[str, bytes] = {}
    figures = {"auc": _auc, "ndcg": _ndcg, "prequential": _prequential, "sameness": _sameness}
    with mpl.rc_context(STYLE):
        for name, draw in figures.items():
            if (figure := draw(collected)) is not None:
                drawn[name] = saved(figure)
    return drawn


def _panels(n: int, width: float, height: float, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with n panels in rows."""
    rows = -(-n // columns)
    figure = new_figure(width, height * rows + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[n:]:
        spare.set_visible(False)
    return figure, panels[:n]


def _auc(collected: Collected) -> Figure | None:
    """Both AUCs of every method; what is worse than chance is left of the line."""
    names = collected.datasets("held-out")
    if not names:
        return None
    figure, panels = _panels(len(names), 10, 3.3)
    for axes, name in zip(panels, names, strict=True):
        records = _by_auc(collected.of_protocol(name, "held-out"))
        for place, record in enumerate(records):
            colour = GROUP_COLOURS[group_of(record)]
            for which, marker, offset in (("auc", "o", -0.13), ("auc_matched", "D", 0.13)):
                if (value := metric(record, which)) is not None:
                    face = colour if which == "auc" else PAPER
                    axes.plot([value.low, value.high], [place + offset] * 2, color=colour, linewidth=1.4)
                    axes.plot(
                        [value.mean], [place + offset], marker, color=colour, markerfacecolor=face, markersize=5.5
                    )
        axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(records)), [title_of(record) for record in records], fontsize=8.5)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
        unbiased = any("precision" in record.metrics for record in records)
        axes.set_title(dataset_title(name) + (": liked against not liked, items drawn at random" if unbiased else ""))
        axes.set_xlabel("AUC; the dashed line is chance")
    kinds = [
        Line2D([], [], color=INK, marker="o", linestyle="none", label="against unrated items"),
        Line2D(
            [], [], color=INK, marker="D", markerfacecolor=PAPER, linestyle="none", label="against equally popular ones"
        ),
    ]
    _legend(figure, _records(collected, names), kinds)
    return figure


def _by_auc(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: -record.metrics["auc"][0])


def _records(collected: Collected, names: Sequence[str]) -> list[Record]:
    return [record for name in names for record in collected.of_protocol(name, "held-out")]


def _legend(figure: Figure, records: Sequence[Record], more: Sequence[Line2D] = ()) -> None:
    """One legend below all panels: the groups that occur, and `more`."""
    groups = [group for group in GROUP_COLOURS if any(group_of(record) == group for record in records)]
    handles = [Patch(color=GROUP_COLOURS[group], label=GROUP_TITLES[group]) for group in groups]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=3, fontsize=9)


def _ndcg(collected: Collected) -> Figure | None:
    """NDCG@10 of all that was held out."""
    names = [name for name in collected.datasets("held-out") if collected.find(name, "held-out", "random")]
    names = [n for n in names if any("ndcg_all" in r.metrics for r in collected.of_protocol(n, "held-out"))]
    if not names:
        return None
    figure, panels = _panels(len(names), 10, 2.9)
    for axes, name in zip(panels, names, strict=True):
        records = sorted(collected.of_protocol(name, "held-out"), key=lambda r: -r.metrics["ndcg_all"][0])
        values = [record.metrics["ndcg_all"] for record in records]
        means = [mean for mean, _, _ in values]
        ends = np.abs(np.array([[mean - low, high - mean] for mean, low, high in values])).T
        colours = [GROUP_COLOURS[group_of(record)] for record in records]
        axes.barh(
            range(len(records)), means, 0.7, color=colours, xerr=ends, error_kw={"ecolor": INK, "elinewidth": 1.1}
        )
        for place, (mean, _, high) in enumerate(values):
            axes.annotate(f"{mean:.3f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(records)), [title_of(record) for record in records], fontsize=8.5)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(dataset_title(name))
        axes.set_xlabel("NDCG@10 in the ranking of all items")
    _legend(figure, _records(collected, names))
    return figure


def _prequential(collected: Collected) -> Figure | None:
    """NDCG@10 as events come in."""
    names = collected.datasets("prequential")
    if not names:
        return None
    figure, panels = _panels(len(names), 10, 3.4)
    handles: dict[str, Line2D] = {}
    for axes, name in zip(panels, names, strict=True):
        for record in collected.of_protocol(name, "prequential"):
            warm_up = float(record.configuration["protocol"]["warm_up"])
            total = record.n / (1 - warm_up)
            n = len(record.curve)
            at = total * (warm_up + (1 - warm_up) * (np.arange(n) + 0.5) / n)
            (line,) = axes.plot(at, record.curve, color=line_colour(record.method), linewidth=1.7)
            handles.setdefault(title_of(record), line)
        axes.set_title(dataset_title(name))
        axes.set(xlabel="events so far", ylabel="NDCG@10", ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def _sameness(collected: Collected) -> Figure | None:
    """Share of pairs in which the next like is closer to the last ones than an equally popular item is."""
    names = collected.datasets("sameness")
    if not names:
        return None
    figure = new_figure(9, 1.2 + 0.55 * len(names))
    axes = figure.add_subplot()
    kinds = (("text", GROUP_COLOURS["texts"], -0.12), ("co_likes", GROUP_COLOURS["logs"], 0.12))
    for place, name in enumerate(names):
        for kind, colour, offset in kinds:
            value = metric(collected.find(name, "sameness", kind), "nearest_share")
            if value is not None:
                axes.plot([value.low, value.high], [place + offset] * 2, color=colour, linewidth=2)
                axes.plot([value.mean], [place + offset], "o", color=colour, markersize=6)
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(names)), [dataset_title(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.2)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("how often the next like is closer to the last four than an equally popular item; dashed: chance")
    axes.set_title("More of the same")
    handles = [
        Line2D([], [], color=colour, marker="o", label=f"by {kind.replace('_', '-')}") for kind, colour, _ in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    return figure
