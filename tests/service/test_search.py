"""Words of titles: all must match, and the best match comes first."""

from __future__ import annotations

import pytest

from service.api.search import matching

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
