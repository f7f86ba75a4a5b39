"""The page `docs/people.md`: what real people liked next, and who had ranked it high. Every number is from records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from offline.benchmark.collected import Collected, dataset_title, method_of, title_of
from offline.benchmark.findings import judged_in_words, learner_in_words, sameness_in_words
from offline.benchmark.records import Protocol, Record, read_records
from offline.benchmark.tables import (
    AUCS,
    HELD_OUT,
    PREQUENTIAL,
    UNBIASED,
    difference_table,
    dislikes_table,
    metric_table,
    sameness_table,
    summary_table,
    table,
)
from offline.errors import OfflineError
from service.durable import write_file

PREFIX = "people-"  # of the plots' files; such files from earlier pages are removed

HEAD = """\
# What real people liked next

*This page is generated: do not edit it. After new results, write it again with*

```
python -m offline benchmark --data ../shared/data --page docs/people.md
```

Methods are judged here by public logs of what people did; nothing is simulated. A method ranks all items after a user's
history, and is good where it ranks high what that user liked next. The first question is whether the pre-trained
policy, which has seen no log at all, knows people's taste better than chance, popularity and closeness of texts.
"""

READING = """\
## How to read this page

- **Held out.** A user's log is cut at a random place (seeded; with at least ten likes before it and five after it, for
  Industry three and one). The last ten likes before the cut are the history; the next five are held out, for
  Industry the next one. Where a log has times, nothing of the same second lies on both sides of the cut. LFM has no
  times: its order is random, so its "next" is any other like.
- **AUC, unrated**: how often a held-out like is ranked above an item that the user never rated; 0.5 is chance.
  **AUC, equally popular**: the same, but each held-out like meets only the five unrated items next to it in the ranking
  by popularity among other users: what is left is taste. Popularity itself is at chance there, by construction.
- **NDCG@10, HR@10, MRR** are of the full ranking of all items but those that the user had answered before the cut, for
  the next like or ("all held out") for all five. Ties count as the mean over all orders of what is tied.
- **Coat**: users rated 24 coats of their own choice (the history) and 16 that were drawn uniformly at random for them
  (the test). So these ratings are free of what people choose to look at. AUC is of liked (4 or more) against other
  random coats, P@3 the share of liked ones among the first three of the 16. Users who liked none or
  all are left out.
- **Fitted to logs**: five folds by user. A method is never fitted to the log of a user on whom it is judged (strong
  generalisation); that user's history is input only. The fitted logs reach beyond the cut in time, which favours these
  methods.
- **Prequential**: likes of all users in order of time, in blocks of 100. Each is ranked after its user's history so far
  (what was liked in the same second is not known yet), and only then is its block learned. The first tenth is learned
  and does not count. Where only the order within users is known (Industry), users are interleaved at random. Item-kNN
  and popularity learn every block, EASE and iALS are fitted again every 10 blocks, SASRec trains on every 40. A user
  without any history is a cold start; methods that know only items get popularity's ranking there.
- **A start from logs**: the same likes in the same order (LFM's in a random one). Every method is fitted to the first
  half once, and learns nothing of the second half; users' histories grow. What was popular may have changed by then.
- **Intervals** are 95%, by a bootstrap over users (1,000 draws), each drawn with all their cases. "x ± y" shows half
  of the interval's width. **Differences** are paired: taken user by user (event by event), then averaged; bold ones
  have an interval that leaves out 0. The intervals are not corrected for the number of comparisons.
- **Settings.** Item-kNN's shrinkage, EASE's ridge and iALS's factors, weights and regularisation were chosen from
  small grids on MovieLens latest-small with another seed, so there they are slightly favoured. SASRec has one block and
  common sizes, was not tuned, and stops when some of its own users, held out for that, are predicted no better. Texts
  are embedded by MiniLM; closeness is the cosine after the catalogue's mean was taken off.
- **MovieLens** shows pages of films, sorted by its makers, and people rate what a page shows: part of what looks like
  taste there is the page. LFM and Coat have no such order.
"""

_IMAGES = {
    "auc": "AUC of held-out likes, against unrated and against equally popular items, of all methods by data set",
    "ndcg": "NDCG@10 of held-out likes of all methods by data set",
    "prequential": "NDCG@10 as events come in, by data set",
    "sameness": "How often the next like is closer to the last four than an equally popular item is",
}


def write_page(results: Path, page: Path) -> str:
    """Write the page and its plots; returns a line of what there is.

    Raises:
        OfflineError: there are no records.
    """
    from offline.benchmark.figures import draw_all  # takes matplotlib along

    collected = Collected.of(read_records(results))
    if not collected.records:
        raise OfflineError(f"--page: no records in {results}; `python -m offline benchmark` makes them")
    images = page.parent / "img"
    drawn = draw_all(collected)
    for name, svg in drawn.items():
        write_file(images / f"{PREFIX}{name}.svg", svg)
    for stale in images.glob(f"{PREFIX}*.svg"):
        if stale.stem.removeprefix(PREFIX) not in drawn:
            stale.unlink()
    text = people_page(collected, {name: f"img/{PREFIX}{name}.svg" for name in drawn})
    write_file(page, text.encode())
    return f"{page}: {len(collected.records):,} results, {len(drawn)} plots in {images}"


def people_page(collected: Collected, images: Mapping[str, str]) -> str:
    """The page; `images` maps a figure's name to its address as seen from the page."""
    parts = [
        HEAD,
        _in_short(collected, images),
        *(_held_out(collected, name) for name in collected.datasets("held-out")),
        _dislikes(collected),
        _prequential(collected, images),
        _warm_start(collected),
        _sameness(collected, images),
        READING,
        "## What was run\n\n" + _what_was_run(collected),
    ]
    return "\n".join(part for part in parts if part)


def _image(images: Mapping[str, str], name: str) -> str:
    return f"![{_IMAGES[name]}]({PurePosixPath(images[name])})\n" if name in images else ""


def _in_short(collected: Collected, images: Mapping[str, str]) -> str:
    if not collected.datasets("held-out"):
        return ""
    return (
        "## In short\n\n"
        + judged_in_words(collected)
        + learner_in_words(collected, "prequential")
        + learner_in_words(collected, "warm-start")
        + "\nHeld-out likes: AUC against unrated / equally popular items / NDCG@10 of all held out; Coat: AUC / P@3 on"
        " items drawn at random.\n\n"
        + summary_table(collected)
        + "\n"
        + _image(images, "auc")
        + "\n"
        + _image(images, "ndcg")
    )


def _held_out(collected: Collected, dataset: str) -> str:
    records = collected.of_protocol(dataset, "held-out")
    unbiased = any("precision" in record.metrics for record in records)
    columns = UNBIASED if unbiased else HELD_OUT
    compared = UNBIASED if unbiased else {"auc_matched": AUCS["auc_matched"], "ndcg_all": "NDCG@10"}
    if not unbiased and records[0].configuration["source"]["n_held_out"] == 1:
        columns = {name: title for name, title in columns.items() if name != "ndcg_all"}
        compared = {"auc_matched": AUCS["auc_matched"], "ndcg": "NDCG@10"}
    what = "items drawn at random" if unbiased else "held out"
    return "\n".join(
        [
            f"## {dataset_title(dataset)}: {what}\n",
            f"{records[0].configuration['n_items']:,} items, {records[0].n:,} users.\n",
            metric_table(collected, dataset, "held-out", columns),
            "Paired differences, in the same order.\n",
            difference_table(collected, dataset, "held-out", compared),
        ]
    )


def _dislikes(collected: Collected) -> str:
    rows = dislikes_table(collected)
    return (
        "## What dislikes change\n\nThe same users and held-out likes, with up to ten dislikes (ratings of 2 or less)"
        " in the history (on Coat with all of them), minus the same without them.\n\n" + rows
        if rows
        else ""
    )


def _prequential(collected: Collected, images: Mapping[str, str]) -> str:
    names = collected.datasets("prequential")
    if not names:
        return ""
    parts = ["## Event by event\n", _image(images, "prequential")]
    return "\n".join(parts + [_by_event(collected, name, "prequential", "after the warm-up") for name in names])


def _warm_start(collected: Collected) -> str:
    names = collected.datasets("warm-start")
    if not names:
        return ""
    head = "## A start from logs\n\nThe first half of the likes is learned, then the second half is ranked.\n"
    return "\n".join([head, *(_by_event(collected, name, "warm-start", "in the second half") for name in names)])


def _by_event(collected: Collected, name: str, protocol: Protocol, which: str) -> str:
    records = collected.of_protocol(name, protocol)
    return "\n".join(
        [
            f"### {dataset_title(name)}\n",
            f"{records[0].n:,} events of {records[0].n_users:,} users {which}.\n",
            metric_table(collected, name, protocol, PREQUENTIAL),
            "Paired differences, in the same order.\n",
            difference_table(collected, name, protocol, {"ndcg": "NDCG@10"}),
        ]
    )


def _sameness(collected: Collected, images: Mapping[str, str]) -> str:
    if not collected.datasets("sameness"):
        return ""
    return (
        "## Do people want more of the same, or do they tire?\n\n"
        + sameness_in_words(collected)
        + "\n"
        + _image(images, "sameness")
        + "\nCosine of the next like, and of five equally popular items that the user never rated, with the nearest of"
        ' the last four likes. "Later sitting": where an hour had passed without a like. "More than earlier likes":'
        " with the last four likes, minus with four earlier ones of the same user. Co-likes are item-kNN's cosine over"
        " other users.\n\n" + sameness_table(collected)
    )


def _what_was_run(collected: Collected) -> str:
    of_code: dict[tuple[str, ...], list[Record]] = {}
    for record in collected.records:
        code = record.code
        of_code.setdefault((code["version"], f"`{code['commit']}`", f"`{code['sources']}`"), []).append(record)
    code_rows = []
    for state, records in sorted(of_code.items()):
        names = ", ".join(f"`{name}`" for name in sorted({r.method for r in records}))
        code_rows.append([*state, f"{len(records):,}", names])
    settings = {}
    for record in collected.records:
        chosen = {k: v for k, v in method_of(record).items() if k not in ("title", "group")}
        if record.protocol != "sameness":
            settings[record.method] = [title_of(record), ", ".join(f"{k} {v}" for k, v in chosen.items()) or "none"]
    seeds = ", ".join(str(seed) for seed in sorted({record.seed for record in collected.records}))
    return (
        f"Seed: {seeds}. Settings of the methods:\n\n"
        + table(["method", "settings"], [settings[name] for name in sorted(settings)], left=2)
        + "\nCode that the results were made with:\n\n"
        + table(["version", "commit", "hash of the sources", "results", "methods"], code_rows, left=5)
    )
