"""Words of titles: all must match, and the best match comes first."""

from __future__ import annotations

import pytest

from service.api.search import closest, matching

FILMS = [
    "Donnie Darko (2001)",
    "Finding Nemo (2003)",
    "Finding Neverland (2004)",
    "Hercules (1997)",
    "Titanic (1997)",
    "The Matrix Reloaded (2003)",
    "The Matrix (1999)",
    "Matrix",
    "Amélie (2001)",
    "千と千尋の神隠し",
    "千尋",
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Finding Nemo", ["Finding Nemo (2003)"]),
        ("titanic (1997)", ["Titanic (1997)"]),
        ("find ne", ["Finding Nemo (2003)", "Finding Neverland (2004)"]),
        ("matrix", ["Matrix", "The Matrix Reloaded (2003)", "The Matrix (1999)"]),
        ("matrix the 1999", ["The Matrix (1999)"]),
        ("amelie", ["Amélie (2001)"]),
        ("千尋", ["千尋"]),
        ("千と千尋", ["千と千尋の神隠し"]),
        ("nemo darko", []),
        ("  ", []),
        ("...", []),
    ],
)
def test_all_words_match(query: str, found: list[str]) -> None:
    assert [FILMS[place] for place in matching(query, FILMS)] == found


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("the film Titanic", "Titanic (1997)"),
        ("finding nemmo", "Finding Nemo (2003)"),
        ("a matrix of the year 1999", "The Matrix (1999)"),
        ("a sad one", "Donnie Darko (2001)"),
        ("", "Donnie Darko (2001)"),
    ],
)
def test_rare_words_come_before_meaning_and_meaning_before_nothing(query: str, first: str) -> None:
    """The films are in the order of their meanings."""
    found = closest(query, FILMS)
    assert FILMS[found[0]] == first and sorted(found) == list(range(len(FILMS)))


def test_without_words_in_common_the_order_is_that_of_meaning() -> None:
    assert closest("of horses", FILMS) == list(range(len(FILMS))) and closest("x", []) == []
