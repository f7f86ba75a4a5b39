"""Verdicts by table, who is looked at, and how a judgement is told; without a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from simulator.demo.summary import AFTER, BEFORE, summarise
from simulator.errors import SimulatorError
from simulator.load.page import PERSONS, WRITER
from simulator.pages.sections import marks
from simulator.personas.catalogue import Category, Item, categories_of, distinct, pairs_of
from simulator.personas.effect import Stage, sign_of_change
from simulator.personas.judgement import read_judgement
from simulator.personas.people import _ACTION, _CHILDREN, _HORROR, people_of
from simulator.personas.terminal import print_effects, print_people
from tests.simulator.personas_examples import effect_of, judgement

JITTER = (-0.01, 0.0, 0.01)  # of the draws


@pytest.mark.parametrize(
    ("means", "likes", "dislikes", "told_apart"),
    [
        ({-3: 0.05, 0: 0.1, 1: 0.2, 3: 0.3, 10: 0.5}, "rises", "falls", True),
        ({-3: 0.05, 0: 0.1, 1: 0.1, 3: 0.1, 10: 0.2}, "rises", "falls", True),
        ({-3: 0.05, 0: 0.1, 1: 0.3, 3: 0.5, 10: 0.4}, "rises", "falls", True),  # saturated
        ({-3: 0.01, 0: 0.1, 1: 0.02, 3: 0.01, 10: 0.001}, "falls", "falls", False),
        ({-3: 0.1, 0: 0.1, 1: 0.1, 3: 0.1, 10: 0.1}, "no change", "no change", False),
        ({-3: 0.2, 0: 0.1, 1: 0.02, 3: 0.2, 10: 0.4}, "dips first", "rises", False),
        ({-3: 0.05, 0: 0.1, 1: 0.3, 3: 0.6, 10: 0.2}, "falls back", "falls", True),
        ({-3: 0.05, 0: 0.1, 1: 0.3, 3: 0.2, 10: 0.05}, "falls back", "falls", True),
        ({-3: 0.05, 0: 0.1, 1: 0.1, 3: 0.1, 10: 0.1004}, "no change", "falls", True),  # by less than one would notice
        ({-3: 0.0, 0: 0.0004, 1: 0.1, 3: 0.2, 10: 0.5}, "rises", "too rare", True),
        ({-3: 0.01, 0: 0.0004, 1: 0.1, 3: 0.2, 10: 0.5}, "rises", "rises", True),
    ],
)
def test_verdicts(means: Mapping[int, float], likes: str, dislikes: str, told_apart: bool) -> None:
    judged = effect_of("Horror", means)
    assert (judged.likes, judged.dislikes, judged.told_apart) == (likes, dislikes, told_apart)


def test_a_difference_counts_beyond_its_standard_error() -> None:
    before = Stage.of(0, [0.1, 0.2, 0.3])
    paired = Stage.of(10, [0.12, 0.22, 0.32])
    assert sign_of_change(paired, before, 0.001) == 1, "draw by draw it is always more"
    assert sign_of_change(Stage.of(10, [0.32, 0.22, 0.12]), before, 0.001) == 0, "up here, down there"
    assert sign_of_change(paired, before, 0.05) == 0 == sign_of_change(before, before, 0.0)


ITEMS = [
    *(Item(f"d{n}", f"Drama {n}", ("Drama",)) for n in range(8)),
    *(Item(f"c{n}", f"Comedy {n}", ("Comedy", "Film")) for n in range(6)),
    *(Item(f"r{n}", f"Romantic {n}", ("Drama", "Romance")) for n in range(4)),
]


def test_categories_with_enough_items_largest_first() -> None:
    found = categories_of(ITEMS, 5, is_listed=True)
    assert [(one.name, len(one.item_ids)) for one in found] == [("Drama", 12), ("Comedy", 6), ("Film", 6)]
    with pytest.raises(SimulatorError, match=r"--least 13: .* the largest, Drama, has 12"):
        categories_of(ITEMS, 13, is_listed=True)
    with pytest.raises(SimulatorError, match=r"none of the 1 items has a category; .*--items FILE"):
        categories_of([Item("a", "A", ())], 4, is_listed=True)


def test_a_pair_overlaps_without_one_being_the_other() -> None:
    items = [*ITEMS, *(Item(f"k{n}", f"Romantic comedy {n}", ("Comedy", "Drama", "Film")) for n in range(4))]
    found = pairs_of(items, categories_of(items, 4, is_listed=True), 4)
    assert [(one.name, one.item_ids) for one in found] == [
        ("Comedy and Drama", ("k0", "k1", "k2", "k3")),
    ], "Comedy and Film are the same, Romance is inside of Drama"


def test_distinct_categories_add_most_to_those_before() -> None:
    all_of = categories_of(ITEMS, 4, is_listed=True)
    assert [one.name for one in distinct(all_of, 2)] == ["Drama", "Comedy"]
    assert [one.name for one in distinct(all_of, 9)] == ["Drama", "Comedy", "Film", "Romance"]
    assert distinct([Category(("x",), ("1",), True)], 0) == []


def test_people_are_made_of_any_catalogue() -> None:
    people = people_of(ITEMS, categories_of(ITEMS, 4, is_listed=True), seed=1)
    assert [person.name for person in people[:5]] == [
        "a fan of Drama",
        "a fan of Comedy",
        "a fan of Drama and Comedy",
        "not a fan of Drama",
        "a stranger",
    ]
    fan, comic, both, against, stranger = people[:5]
    assert fan.taste.liked == against.taste.disliked and against.opposite == fan.name
    assert both.taste.liked == (*fan.taste.liked, *comic.taste.liked) and stranger.taste.liked == ()
    assert {item[0] for item in fan.taste.liked} == {"d"}, "not those that belong to another chosen category, too"
    assert people == people_of(ITEMS, categories_of(ITEMS, 4, is_listed=True), seed=1)
    alone = people_of(ITEMS[:8], categories_of(ITEMS[:8], 4, is_listed=True), seed=1)
    assert [person.name for person in alone] == ["a fan of Drama", "not a fan of Drama", "a stranger"]


def test_well_known_films_are_judged_by_well_known_fans() -> None:
    titles = (*_ACTION, *_CHILDREN, *_HORROR)
    films = [Item(str(n), title, ("Drama",)) for n, title in enumerate(titles)]
    people = people_of(films, categories_of(films, 4, is_listed=True), seed=0)
    assert [len(person.taste.liked) for person in people] == [3, 3, 0, 3, 0]
    assert people[2].taste.disliked == people[1].taste.liked == ("3", "4", "5")
    assert people_of(films[1:], categories_of(films, 4, is_listed=True), seed=0)[0].name == "a fan of Drama"


def test_the_terminal_has_verdicts_counts_and_lists() -> None:
    console = Console(record=True, width=100)
    print_effects(judgement(), console)
    print_people(judgement(), console)
    said = " ".join(console.export_text().split())
    assert "Horror 5.0% 10% 20% 30% 50% rises falls yes" in said
    assert "[b]Odd[/b] 1.0% 10% 2.0% 1.0% <0.1% falls falls no" in said, "names are no markup"
    assert "1 of 2 categories rise with likes, 2 of 2 fall with dislikes, 1 of 2 tell likes from dislikes." in said
    assert "1 of the 2 likeliest and 1 of the 1 of a slate are Horror: 40% of the slots on average" in said
    assert "Total variation from a stranger 0.51." in said and "Version 3, adaptive arm." in said


def test_the_demo_ends_with_both_judgements(tmp_path: Path) -> None:
    judgement().write(tmp_path / BEFORE)
    judgement().write(tmp_path / AFTER)
    assert read_judgement(tmp_path / AFTER) == judgement()
    for name, text in (("evaluate", '{"pretrained_over_random": 2.0}'), ("load", '{"gain": null}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    (tmp_path / "load" / "report.html").write_text("\n".join(["<h1>Load</h1>", *marks(PERSONS, WRITER), "end"]))
    console = Console(record=True, width=100)
    summarise(tmp_path, {"load": 60.0}, console)
    said = console.export_text()
    assert "Pre-trained: 1 of 2 categories rise" in said and "After learning: 1 of 2 categories rise" in said
    assert said.index("A fan of Horror") < said.index("Pre-trained: ")
    report = (tmp_path / "load" / "report.html").read_text()
    assert '<a href="../personas/pretrained/personas.html">' in report and "1 of 2 categories rise" in report
    with pytest.raises(SimulatorError, match="run `python -m simulator personas` again"):
        read_judgement(tmp_path)


def test_what_is_too_rare_to_fall_is_no_part_of_the_count() -> None:
    rare = effect_of("Western", {-3: 0.0, 0: 0.0004, 1: 0.1, 3: 0.2, 10: 0.5})
    both = judgement()
    (told, *_) = replace(both, categories=[*both.categories, rare]).headline
    assert told.startswith("2 of 3 categories rise with likes, 2 of 2 fall with dislikes (1 too rare to fall), 2 of 3")
