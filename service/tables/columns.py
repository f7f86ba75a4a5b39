"""Columns of people's tables by what they mean: by their usual names, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from service.tables.problems import TableError

Meanings = Mapping[str, tuple[str, ...]]

_ITEM_IDS = (
    "itemid productid sku articleid articlenumber movieid bookid trackid contentid isbn asin handle item product"
)


def _meanings(**names: str) -> Meanings:
    return MappingProxyType({meaning: tuple(usual.split()) for meaning, usual in names.items()})


ITEM_COLUMNS = _meanings(
    id=f"id {_ITEM_IDS}",
    text="text title name itemname productname producttitle headline label comment product item",
    categories="categories category genres genre tags tag producttype producttypes topics",
    hidden="hidden ishidden",
)
"""Names of an item's columns, in lower case without other signs; of several that a row has, the first with a cell."""

INTERACTION_COLUMNS = _meanings(
    user="user userid customer customerid visitor visitorid memberid accountid sessionid",
    item=f"{_ITEM_IDS} id",
    value="value rating score stars quantity",
    liked="liked",
    type="type feedbacktype event eventtype action",
    time="time timestamp date datetime createdat occurredat eventtime orderdate orderedat",
    slate="recommendationid slateid rankingid impressionid",
    shown="shownitems shownitemids shownids impressionlist",
    propensities="propensities propensity",
)
"""The same of an interaction's columns; `shown` are the items of the slate that it answers, or that nobody answered."""

EXPORT_COLUMNS = _meanings(**{meaning: meaning for meaning in INTERACTION_COLUMNS})
"""The same of rows that are made from other systems' logs."""


class Columns:
    """Finds the cells of rows by what they mean, and remembers what it saw and did not read."""

    def __init__(self, path: Path, meanings: Meanings, chosen: Mapping[str, str], option: str) -> None:
        """`chosen`: columns by meaning as the user said with `option`, before which no other is looked at."""
        self.path, self.meanings, self.chosen, self.option = path, meanings, chosen, option
        self._by_names: dict[tuple[str, ...], dict[str, list[str]]] = {}
        self.seen: dict[str, str | None] = {}  # meaning of each column, None where it has none

    def require(self, columns: Sequence[str], *needed: str) -> None:
        """Check that a header has a column for each of the `needed` meanings.

        Raises:
            TableError: it has not, or lacks a column that the user named.
        """
        listed = ", ".join(map(repr, columns)) or "none"
        for meaning, column in self.chosen.items():
            if column not in columns:
                raise TableError(f"{self.path}: {self.option} {meaning}={column}: its columns are {listed}")
        found = self._found(tuple(columns))
        for meaning in needed:
            if not found[meaning]:
                raise TableError(
                    f"{self.path}: no column for the {meaning} (such as {' or '.join(self.meanings[meaning][:3])});"
                    f" its columns are {listed}; name it with {self.option} {meaning}=COLUMN"
                )

    def cell(self, row: Mapping[str, Any], meaning: str) -> tuple[str, Any]:
        """The column that holds what is meant in this row, and its cell; None where there is none."""
        names = self._found(tuple(row))[meaning]
        for name in names:
            if row[name] is not None and row[name] != "":
                return name, row[name]
        return (names[0], row[names[0]]) if names else (self.chosen.get(meaning, meaning), None)

    def notes(self) -> list[str]:
        """List which columns were read as what, and which were not."""
        read: dict[str, list[str]] = {}
        for column, meaning in self.seen.items():
            if meaning is not None:
                read.setdefault(meaning, []).append(repr(column))
        parts = [f"{meaning} from {' or '.join(names)}" for meaning, names in read.items() if names != [repr(meaning)]]
        unread = [repr(column) for column, meaning in self.seen.items() if meaning is None]
        return ([", ".join(parts)] if parts else []) + ([f"not read: {', '.join(unread)}"] if unread else [])

    def _found(self, names: tuple[str, ...]) -> dict[str, list[str]]:
        if (found := self._by_names.get(names)) is None:
            found = {meaning: self._matching(meaning, names) for meaning in self.meanings}
            if len(self._by_names) < 1_000:  # rows of JSON may all differ
                self._by_names[names] = found
            meanings = {columns[0]: meaning for meaning, columns in reversed(found.items()) if columns}
            self.seen |= {name: meanings.get(name) for name in names if self.seen.get(name) is None}
        return found

    def _matching(self, meaning: str, names: Iterable[str]) -> list[str]:
        if meaning in self.chosen:
            return [name for name in names if name == self.chosen[meaning]]
        usual = self.meanings[meaning]
        taken = set(self.chosen.values())
        fitting = [(usual.index(key), name) for name in names if (key := _key(name)) in usual and name not in taken]
        return [name for _, name in sorted(fitting)]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
