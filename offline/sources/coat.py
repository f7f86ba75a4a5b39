"""Coat Shopping (Schnabel et al., "Recommendations as Treatments", ICML 2016): 290 users, 300 coats, ratings 1 to 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from offline.datasets import Dataset, Item, Observation, Scenario, index_observations
from offline.errors import OfflineError
from offline.sources.rows import number_within, numbered_lines, read_table, read_zero_one_rows
from service.tables.problems import Problems

SCENARIO = Scenario(noun="coat", nouns="coats", liked="liked", disliked="did not like")
LIKED_RATING = 4

_KINDS = {
    "other": "jacket",
    "packable": "packable jacket",
    "parkas": "parka",
    "pea": "pea coat",
    "shells": "shell jacket",
    "trench": "trench coat",
    "vests": "vest",
}
_COLORS = {"multi": "multicolored", "other": ""}


def load_coat(folder: Path) -> Dataset:
    """The Coat data: liked means 4 or more; time is the order within the user, self-selected items before random ones.

    Where both the training and the random test matrix rate a cell, the test's rating stands (it is the unbiased one).

    Raises:
        OfflineError: a file is missing, or a matrix row is malformed (rows carry identity by place).
    """
    return load_coat_parts(folder)[0]


def load_coat_parts(folder: Path) -> tuple[Dataset, npt.NDArray[np.bool_]]:
    """Load Coat, and mark the interactions whose item was drawn uniformly at random for the user (the test matrix).

    Raises:
        OfflineError: as `load_coat`.
    """
    problems: Problems = []
    features = folder / "user_item_features"
    names = [line.strip() for _, line in numbered_lines(features / "item_features_map.txt") if line.strip()]
    rows = read_zero_one_rows(features / "item_features.ascii", len(names), problems)
    items = tuple(
        _describe(
            i, {name.partition(":")[0]: name.partition(":")[2] for name, on in zip(names, row, strict=True) if on}
        )
        for i, row in enumerate(rows)
    )
    chosen, drawn = (_matrix(folder / name, len(items)) for name in ("train.ascii", "test.ascii"))
    ratings = {cell: rating for cell, rating in chosen.items() if cell not in drawn} | drawn
    observations = [
        Observation(user, item, rating, rating >= LIKED_RATING, order)
        for order, ((user, item), rating) in enumerate(ratings.items())
    ]
    observations.sort(key=lambda o: o.user if isinstance(o.user, int) else 0)
    is_random = np.array([(o.user, o.item) in drawn for o in observations], np.bool_)
    interactions = index_observations(observations, {i: i for i in range(len(items))})
    return Dataset("coat", SCENARIO, items, interactions), is_random


def _matrix(path: Path, n_items: int) -> dict[tuple[int, int], int]:
    problems: Problems = []
    columns = {f"item {i}": number_within(0, 5) for i in range(n_items)}
    rows = [row for _, row in read_table(path, columns, problems, separator=None)]
    if problems:
        raise OfflineError(f"{problems[0]}; a row of this matrix cannot be skipped, fetch the file again")
    return {(user, item): rating for user, row in enumerate(rows) for item, rating in enumerate(row) if rating}


def _describe(index: int, features: dict[str, str]) -> Item:
    """Features as a person would say them: "men's black bomber jacket", categories likewise."""
    kind, color = features.get("jackettype", "other"), features.get("color", "other")
    kind, color = _KINDS.get(kind, f"{kind} jacket"), _COLORS.get(color, color)
    gender = features.get("gender", "")
    words = [f"{gender}'s" if gender else "", color, kind]
    text = " ".join(word for word in words if word)
    if features.get("onfrontpage") == "yes":
        text += ", shown on the front page"
    return Item(str(index), text[:1].upper() + text[1:], tuple(word for word in (gender, kind, color) if word))
