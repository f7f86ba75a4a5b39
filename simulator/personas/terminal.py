"""A judgement in the terminal."""

from __future__ import annotations

from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.personas.judgement import Judgement
from simulator.personas.people import Shown, ShownItem
from simulator.personas.words import capital, obeys, percent, sentences, served

_FIRST = 5  # persons in the terminal; the page has all


def print_effects(judgement: Judgement, console: Console) -> None:
    """Print every category's probabilities and verdicts, and the counts."""
    effects = [*judgement.categories, *judgement.pairs]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for stage in effects[0].stages:
        table.add_column(str(stage.likes).replace("-", "−"), justify="right", no_wrap=True)
    for words in ("likes", "dislikes", "apart"):
        table.add_column(words, no_wrap=True)
    for effect in effects:
        table.add_row(
            Text(effect.name),
            *(percent(stage.mean) for stage in effect.stages),
            _judged(effect.likes, effect.likes == "rises"),
            _judged(effect.dislikes, obeys(effect)),
            _judged("yes" if effect.told_apart else "no", effect.told_apart),
        )
    console.print(table)
    console.print(
        f"Expected share of a slate of {judgement.config.k} for the category's other items after so many likes,"
        f" or dislikes (−); mean of {judgement.config.draws} draws of the items. {capital(served(judgement))}.",
        style="dim",
        highlight=False,
    )
    print_headline(judgement, console)


def print_headline(judgement: Judgement, console: Console, before: str = "") -> None:
    """Print the counts."""
    for sentence in judgement.headline:
        console.print(Text(before + sentence, "bold"))


def print_people(judgement: Judgement, console: Console) -> None:
    """Print what the first persons are shown."""
    for shown in judgement.people[:_FIRST]:
        _print_person(shown, console)


def _print_person(shown: Shown, console: Console) -> None:
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(capital(shown.name), "bold"), title_justify="left"
    )
    table.add_column("", justify="right")
    table.add_column("likeliest")
    table.add_column("", justify="right")
    table.add_column("a slate")
    for n, (likely, drawn) in enumerate(zip_longest(shown.likeliest, shown.slate), 1):
        table.add_row(str(n), _title(likely), percent(likely.in_slate) if likely else "", _title(drawn))
    console.print(table)
    for sentence in sentences(shown):
        console.print(sentence, style="dim", highlight=False, markup=False)


def _judged(word: str, good: bool) -> Text:
    return Text(word, "green" if good else "red")


def _title(item: ShownItem | None) -> Text:
    return Text("") if item is None else Text(item.text, "green" if item.fits else "")
