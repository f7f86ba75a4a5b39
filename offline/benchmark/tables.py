"""The tables of the page, in Markdown: means with half the width of their 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from offline.benchmark.bootstrap import Interval
from offline.benchmark.collected import (
    Collected,
    dataset_title,
    difference,
    group_of,
    metric,
    title_of,
)
from offline.benchmark.records import Protocol, Record
from offline.benchmark.run import REFERENCES

NONE = "–"
AUCS = {"auc": "AUC, unrated", "auc_matched": "AUC, equally popular"}
NEXT = {"ndcg": "NDCG@10, next", "hit": "HR@10, next", "mrr": "MRR, next"}
HELD_OUT = {**AUCS, "ndcg_all": "NDCG@10, all held out", **NEXT}
UNBIASED = {"auc": "AUC", "precision": "P@3"}
PREQUENTIAL = {
    "ndcg": "NDCG@10",
    "hit": "HR@10",
    "mrr": "MRR",
    "ndcg_known": "NDCG@10, users with a history",
    "ndcg_cold": "NDCG@10, cold starts",
}
_TITLES = {"popularity": "popularity", "text_mean": "closeness of texts", "item_knn": "item-kNN"}


def summary_table(collected: Collected) -> str:
    """A row a method, a column a data set: AUC against unrated / equally popular items, and NDCG@10."""
    names = collected.datasets("held-out")
    rows = []
    for method in collected.methods("held-out"):
        cells = [_in_short(collected.find(name, "held-out", method.method)) for name in names]
        rows.append([title_of(method), f"`{method.method}`", *cells])
    return table(["method", "id", *(dataset_title(name) for name in names)], rows, left=2)


def _in_short(record: Record | None) -> str:
    if record is None:
        return NONE
    names = ("auc", "precision") if "precision" in record.metrics else ("auc", "auc_matched", "ndcg_all")
    digits = {"ndcg_all": 3, "precision": 3}
    return " / ".join(_digits(record.metrics[name][0], digits.get(name, 3)) for name in names)


def _digits(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


def metric_table(collected: Collected, dataset: str, protocol: Protocol, columns: dict[str, str]) -> str:
    """A row a method, the best by the first column first."""
    records = _best_first(collected.of_protocol(dataset, protocol), next(iter(columns)))
    rows = [
        [title_of(r), f"`{r.method}`", group_of(r), *(plus_minus(metric(r, name)) for name in columns)] for r in records
    ]
    return table(["method", "id", "group", *columns.values()], rows, left=3)


def difference_table(collected: Collected, dataset: str, protocol: Protocol, columns: dict[str, str]) -> str:
    """Paired differences from each reference, in the same order; bold where the interval leaves out 0."""
    rows = []
    for record in _best_first(collected.of_protocol(dataset, protocol), "auc" if protocol == "held-out" else "ndcg"):
        cells = [signed(difference(record, reference, name)) for reference in REFERENCES for name in columns]
        rows.append([title_of(record), f"`{record.method}`", *cells])
    heads = [f"{title} − {_TITLES[reference]}" for reference in REFERENCES for title in columns.values()]
    return table(["method", "id", *heads], rows, left=2)


def dislikes_table(collected: Collected) -> str:
    """Table of the metrics with dislikes in the history minus those without them."""
    rows = []
    for dataset in collected.datasets("held-out"):
        for record in collected.of_protocol(dataset, "held-out", "answers"):
            names = ("auc", "auc_matched", "ndcg_all", "precision")
            changes = [signed(difference(record, "likes", name)) for name in names]
            rows.append([dataset_title(dataset), title_of(record), f"{record.n:,}", *changes])
    heads = ("AUC, unrated", "AUC, equally popular", "NDCG@10, all held out", "P@3")
    return table(["data", "method", "users", *heads], rows, left=2) if rows else ""


def sameness_table(collected: Collected) -> str:
    """A row a data set and kind of closeness, by the nearest of the last likes."""
    rows = []
    for dataset in collected.datasets("sameness"):
        for record in collected.of_protocol(dataset, "sameness"):
            cells = [plus_minus(metric(record, f"nearest_{name}")) for name in ("next", "popular")]
            cells += [signed(metric(record, f"nearest_{name}")) for name in ("more", "later", "recent")]
            cells += [plus_minus(metric(record, "nearest_share")), signed(metric(record, "mean_more"))]
            kind = record.method.replace("_", "-")
            rows.append([dataset_title(dataset), kind, f"{record.n:,}", f"{record.n_users:,}", *cells])
    heads = ["data", "closeness by", "likes", "users", "next like", "equally popular", "difference"]
    heads += ["difference, later sitting", "more than earlier likes", "next like closer", "difference, by the mean"]
    return table(heads, rows, left=2)


def _best_first(records: Sequence[Record], name: str) -> list[Record]:
    return sorted(records, key=lambda record: (-record.metrics[name][0], record.method))


def plus_minus(value: Interval | None, digits: int = 3) -> str:
    """0.123 ± 0.004, or a dash."""
    if value is None or math.isnan(value.mean):
        return NONE
    half = (value.high - value.low) / 2
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def signed(value: Interval | None, digits: int = 3) -> str:
    """+0.123 ± 0.004, bold where the interval leaves out 0."""
    if value is None or math.isnan(value.mean):
        return NONE
    text = f"{value.mean:+.{digits}f} ± {(value.high - value.low) / 2:.{digits}f}"
    return f"**{text}**" if value.low > 0 or value.high < 0 else text


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    lines = [titles, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
