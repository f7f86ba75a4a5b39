"""A judgement as one page that needs nothing else."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from itertools import zip_longest

from simulator.pages.templates import render
from simulator.personas import words
from simulator.personas.curve import draw
from simulator.personas.judgement import Judgement
from simulator.personas.people import Shown, ShownItem


def page(judgement: Judgement) -> str:
    """Make the whole page."""
    return render(
        "personas/page.html",
        judgement=judgement,
        config=judgement.config,
        facts=_facts(judgement),
        words=words,
        draw=draw,
        responses_of=_responses,
        rows_of=_rows,
        distance_rows=_distances(judgement),
        setting_rows=_settings(judgement),
    )


def _facts(judgement: Judgement) -> str:
    at = datetime.fromtimestamp(judgement.at, UTC)
    return f"{judgement.url}, {judgement.items:,} items, {words.served(judgement)}, {at:%Y-%m-%d %H:%M} UTC"


def _responses(shown: Shown) -> str:
    """Say what a person liked and disliked."""
    lists = (("Liked", shown.liked), ("Disliked", shown.disliked))
    return " ".join(f"{word}: {', '.join(titles)}." for word, titles in lists if titles)


def _rows(shown: Shown) -> list[tuple[ShownItem | None, ShownItem | None]]:
    """Pair the likeliest items with those of a slate."""
    return list(zip_longest(shown.likeliest, shown.slate))


def _distances(judgement: Judgement) -> list[tuple[str, str, str]]:
    return [
        (words.capital(shown.name), f"{shown.from_stranger:.2f}", _opposite(shown))
        for shown in judgement.people
        if shown.liked or shown.disliked
    ]


def _opposite(shown: Shown) -> str:
    return "" if shown.from_opposite is None else f"{shown.from_opposite:.2f}"


def _settings(judgement: Judgement) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), str(value)) for name, value in asdict(judgement.config).items()]
    return [*rows, ("seconds", f"{judgement.seconds:.1f}")]
