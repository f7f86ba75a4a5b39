"""Findings of the page in words, derived from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offline.benchmark.bootstrap import Interval
from offline.benchmark.collected import Collected, dataset_title, difference, group_of, metric, title_of
from offline.benchmark.records import Protocol, Record

# The newest first: the page describes the pre-training that is in the code, or the last that was.
_OURS = ("pretrained", "pretrained_old")
_CHANCE = 0.5


def judged_in_words(collected: Collected) -> str:
    """A bullet a data set: where the pre-trained policy stands against chance, texts and popularity."""
    lines = []
    for dataset in collected.datasets("held-out"):
        records = [collected.find(dataset, "held-out", name) for name in _OURS]
        ours = next((record for record in records if record is not None), None)
        if ours is not None:
            lines.append(f"- **{dataset_title(dataset)}**: {_standing(ours)}.\n")
    return "The pre-trained policy (no logs):\n\n" + "".join(lines) if lines else ""


_LEARNED: Mapping[Protocol, str] = {
    "prequential": "The learner (each like is ranked, then learned)",
    "warm-start": "A start from logs (the first half is learned, the second half ranked)",
}


def learner_in_words(collected: Collected, protocol: Protocol) -> str:
    """A bullet a data set: where the learner stands against the best of the others and against item-kNN."""
    lines = []
    for dataset in collected.datasets(protocol):
        ours = collected.find(dataset, protocol, "live") or collected.find(dataset, protocol, "live_texts")
        others = [r for r in collected.of_protocol(dataset, protocol) if r.method != "live"]
        rivals = [r for r in others if group_of(r) != "live"]
        if ours is None or not rivals:
            continue
        value = ours.metrics["ndcg"][0]
        best = max(rivals, key=lambda record: record.metrics["ndcg"][0])
        gain = (
            f"NDCG@10 {value:.3f}, {value / best.metrics['ndcg'][0]:.2f} times that of the best other, {title_of(best)}"
        )
        against = _against(ours, "item_knn", "item-kNN", "ndcg", "NDCG@10")
        which = "" if ours.method == "live" else " (without a language model)"
        lines.append(f"- **{dataset_title(dataset)}**{which}: {'; '.join([gain, *against])}.\n")
    return f"\n{_LEARNED[protocol]}:\n\n" + "".join(lines) if lines else ""


def _standing(record: Record) -> str:
    unbiased = "precision" in record.metrics
    against = {"auc": "not liked" if unbiased else "unrated"} | ({} if unbiased else {"auc_matched": "equally popular"})
    parts = []
    for name, what in against.items():
        found = metric(record, name)
        assert found is not None
        above = _compared(Interval(found.mean - _CHANCE, found.low - _CHANCE, found.high - _CHANCE))
        parts.append(f"AUC {found.mean:.3f} against {what} items, {above} chance")
    name = "auc" if unbiased else "auc_matched"
    what = "AUC" if unbiased else "AUC against equally popular items"
    for reference, title in (("text_mean", "closeness of texts"), ("popularity", "popularity")):
        parts += _against(record, reference, title, name, what)
    return "; ".join(parts)


def _against(record: Record, reference: str, title: str, name: str, what: str) -> list[str]:
    found = difference(record, reference, name)
    return [] if found is None else [f"{what} {found.mean:+.3f}, {_compared(found)} {title}"]


def _compared(found: Interval) -> str:
    if found.low > 0:
        return "**above**"
    return "**below**" if found.high < 0 else "not distinguishable from"


def sameness_in_words(collected: Collected) -> str:
    """One sentence a question, by how many of the comparisons bear it out."""
    names = collected.datasets("sameness")
    records = [record for name in names for record in collected.of_protocol(name, "sameness")]
    more = _count(records, "nearest_more")
    recent, later = _count(records, "nearest_recent"), _count(records, "nearest_later")
    shares = [record.metrics["nearest_share"][0] for record in records]
    text = (
        f"{_conclude(more, 'People want more of the same', 'People want something else')}: the next like is closer to"
        f" the last four than equally popular items are in {more[0]} of {more[2]} comparisons (each data set, by texts"
        f" and by co-likes), and is the closer one of a pair in {min(shares):.0%} to {max(shares):.0%} of cases."
    )
    if recent[2]:
        text += (
            f" {_conclude(recent, 'They do not tire of it', 'They tire of it')} within what these logs can show: where"
            f" the order is known, it is closer to the last likes than to earlier ones of the same user in {recent[0]}"
            f" of {recent[2]} comparisons, farther in {recent[1]}."
        )
    if later[2]:
        text += f" After an hour's pause it is still closer than equally popular items in {later[0]} of {later[2]}."
    return text + "\n"


def _count(records: Sequence[Record], name: str) -> tuple[int, int, int]:
    """Count the intervals above 0, those below 0, and all of them."""
    found = [value for record in records if (value := metric(record, name)) is not None]
    return sum(value.low > 0 for value in found), sum(value.high < 0 for value in found), len(found)


def _conclude(count: tuple[int, int, int], yes: str, no: str) -> str:
    above, below, n = count
    if above == n:
        return yes
    return no if below == n else "It depends"
