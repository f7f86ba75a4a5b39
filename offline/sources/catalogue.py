"""The user's own catalogue, with optional interactions, in whatever form `service.tables` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offline.datasets import Dataset, Interactions, Item, Observation, Scenario, index_observations
from offline.errors import OfflineError
from offline.impressions import MOST_SLOTS, Impressions, index_impressions
from offline.sources.properties import Properties
from service.contract.base import MAX_CATEGORIES, MAX_ID_BYTES, MAX_TEXT
from service.tables import cells, exports, fields
from service.tables.columns import ITEM_COLUMNS, Columns
from service.tables.fields import BadField
from service.tables.files import read_table_file
from service.tables.interactions import Interaction, InteractionFile, Shown
from service.tables.problems import Problems, RowProblem, TableError


@dataclass(frozen=True)
class Reading:
    """Options for files that do not say themselves how they are meant; None and empty: as it is recognised."""

    item_columns: Mapping[str, str] = field(default_factory=dict)  # by meaning (`columns.ITEM_COLUMNS`)
    interaction_columns: Mapping[str, str] = field(default_factory=dict)
    category_separator: str | None = None  # of several categories in one text; "" for none
    encoding: str | None = None
    properties: tuple[str, ...] = ()  # columns that are kept as such; `properties.ALL`: those that mean nothing else
    liked_at: float | None = None  # least value that is liked, without a column for it; None: all are
    liked_types: frozenset[str] = frozenset()  # types that are likes, without a column for it; empty: all are


def load_catalogue(
    items_path: Path,
    interactions_path: Path | None = None,
    *,
    scenario: Scenario | None = None,
    reading: Reading | None = None,
) -> Dataset:
    """Read a catalogue and what users did with it.

    An item has an id, a text and optionally categories; an interaction a user, an item and optionally a value, `liked`
    and a time (by default its order in the file). Rows that cannot be used are listed in the result's `problems`, what
    was recognised in its `notes`.

    Raises:
        OfflineError: a file is missing, of another format or holds no usable item.
    """
    reading = reading or Reading()
    problems: Problems = []
    try:
        items, hidden, notes = _read_items(items_path, reading, problems)
        if not items:
            first = f"; the first problem: {problems[0]}" if problems else ""
            raise OfflineError(f"{items_path}: no usable item{first}")
        interactions = impressions = None
        if interactions_path is not None:
            interactions, impressions, more = _read_interactions(
                interactions_path, items_path.name, items, hidden, reading, problems
            )
            notes += more
    except TableError as error:
        raise OfflineError(str(error)) from None
    problems.sort(key=lambda problem: (problem.file != str(items_path), problem.line))
    words = scenario or Scenario()
    return Dataset("catalogue", words, tuple(items), interactions, tuple(problems), tuple(notes), impressions)


def _read_items(path: Path, reading: Reading, problems: Problems) -> tuple[list[Item], set[str], list[str]]:
    """Items, the ids of hidden ones, and notes."""
    table = read_table_file(path, problems, reading.encoding)
    columns = Columns(path, ITEM_COLUMNS, reading.item_columns, "--item-columns")
    if table.columns:
        columns.require(table.columns, "id", "text")
    export, told = exports.recognised(table)
    rows = list(told if export is None else exports.item_rows(export, told))
    separator = reading.category_separator
    if separator is None:
        separator = cells.separator_of(columns.cell(row, "categories")[1] for _, row in rows)
    kept = [row for _, row in rows]
    for row in kept:
        columns.cell(row, "id")  # so that all columns are seen
    properties = Properties(path, kept, columns, reading.properties, table.has_decimal_commas)
    items: dict[str, Item] = {}
    hidden: set[str] = set()
    for line, row in rows:
        try:
            if fields.truth(row, columns, "hidden"):
                hidden.add(fields.identifier(row, columns, "id"))
                continue
            item = replace(_item(row, columns, separator), properties=properties.of(row))
            if item.item_id in items:
                raise BadField("id", f"{item.item_id!r} is in the file twice")
            items[item.item_id] = item
        except BadField as error:
            problems.append(RowProblem(str(path), line, error.field, str(error)))
    recognised = [] if export is None else exports.notes(export)
    notes = [*table.notes, *recognised, *columns.notes(), *properties.notes(), *_about(items.values(), separator)]
    if hidden:
        notes.append(f"{len(hidden):,} hidden items left out")
    return list(items.values()), hidden, [f"{path.name}: {note}" for note in notes]


def _about(items: Iterable[Item], separator: str | None) -> list[str]:
    """Tell how categories were told apart, and how many texts are no item's own."""
    notes = []
    counts = Counter(category for item in items for category in item.categories)
    if counts:
        bare = sum(not item.categories for item in items)
        split = f", split at {separator.strip()!r}" if separator else ""
        notes.append(f"{len(counts):,} categories{split}" + (f"; {bare:,} items have none" if bare else ""))
    texts = Counter(item.text for item in items)
    if same := sum(n for n in texts.values() if n > 1):
        notes.append(
            f"{same:,} items share their text with another: nothing can tell these apart before they are shown"
        )
    return notes


def _item(row: Mapping[str, Any], columns: Columns, separator: str | None) -> Item:
    name, cell = columns.cell(row, "categories")
    categories = cells.as_list(cell, separator)
    if categories is None:
        raise BadField(name, "must be a list of texts, or one text")
    if len(categories) > MAX_CATEGORIES:
        raise BadField(name, f"{len(categories)} categories; at most {MAX_CATEGORIES} are kept")
    if any(len(category.encode()) > MAX_ID_BYTES for category in categories):
        raise BadField(name, f"a category is longer than {MAX_ID_BYTES} bytes; is it split at the right sign?")
    name, cell = columns.cell(row, "text")
    text = cells.as_text(cell)
    if not text:
        raise BadField(name, "must be a text of whole characters that is not empty")
    if len(text) > MAX_TEXT:
        raise BadField(name, f"has {len(text):,} characters; at most {MAX_TEXT:,} are kept")
    return Item(fields.identifier(row, columns, "id"), text, tuple(categories))


def _read_interactions(
    path: Path, items_name: str, items: list[Item], hidden: set[str], reading: Reading, problems: Problems
) -> tuple[Interactions, Impressions | None, list[str]]:
    file = InteractionFile(path, problems, reading.interaction_columns, reading.encoding)
    index: dict[Hashable, int] = {item.item_id: n for n, item in enumerate(items)}
    observations, of_hidden = [], 0
    slates: list[Shown] = []
    answers: list[tuple[str, str]] = []
    for row in file:
        if isinstance(row, Shown):
            slates.append(row)
        elif row.item in hidden:
            of_hidden += 1
        elif row.item in index:
            observations.append(_observation(row, reading))
            if row.slate is not None and observations[-1].liked:
                answers.append((row.slate, row.item))
        else:
            problems.append(RowProblem(str(path), row.line, "item", f"{row.item!r} is not in {items_name}"))
    users: dict[Hashable, int] = {}
    interactions = index_observations(observations, index, users)
    notes = file.notes()
    if of_hidden:
        notes.append(f"{of_hidden:,} interactions with hidden items left out")
    impressions = index_impressions(slates, answers, index, users) if slates else None
    if impressions is not None:
        interactions = replace(interactions, n_users=len(users))
        notes += [*impressions.notes(), *_unknown_shown(slates, index)]
    return interactions, impressions, [f"{path.name}: {note}" for note in notes]


def _unknown_shown(slates: Iterable[Shown], index: Mapping[Hashable, int]) -> list[str]:
    """Tell what was shown and is no slot now."""
    unknown = Counter(item for slate in slates for item in slate.items[:MOST_SLOTS] if item not in index)
    deeper = sum(len(slate.items) > MOST_SLOTS for slate in slates)
    notes = [f"{unknown.total():,} times {len(unknown):,} items were shown that are not in the catalogue"]
    return notes * bool(unknown) + [f"{deeper:,} slates cut off after {MOST_SLOTS} items"] * bool(deeper)


def _observation(row: Interaction, reading: Reading) -> Observation:
    """Without a value it is 1, without a time the row's number."""
    value = 1.0 if row.value is None else row.value
    liked = reading.liked_at is None or value >= reading.liked_at
    if reading.liked_types:
        liked &= row.kind in reading.liked_types
    time = row.line if row.time is None else row.time
    return Observation(row.user, row.item, value, liked if row.liked is None else row.liked, time)
