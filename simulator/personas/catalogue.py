"""The items of a deployment with their categories: from its own listing, or from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from offline.sources.catalogue import load_catalogue
from service.client import AsyncClient
from simulator.errors import SimulatorError

_PAGE = 100
MAX_PAIRS = 5
_NEARLY_ALL = 0.8  # of the smaller category: then the two are no pair, but one inside the other


@dataclass(frozen=True)
class Item:
    """Item that can be recommended."""

    item_id: str
    text: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Category:
    """Items that have something in common. `parts` has its name, or both names of two overlapping categories."""

    parts: tuple[str, ...]
    item_ids: tuple[str, ...]
    is_listed: bool  # whether the service's own sums by category tell its probability

    @property
    def name(self) -> str:
        """Its name in words."""
        return " and ".join(self.parts)


async def items_of_service(client: AsyncClient, advance: Callable[[float], None]) -> list[Item]:
    """Read all items page by page; hidden ones cannot be shown and are left out. `advance` hears of each page's."""
    found: list[Item] = []
    after: str | None = None
    while True:
        page = await client.items(after=after, count=_PAGE)
        found += [Item(i.item_id, i.text, tuple(dict.fromkeys(i.categories))) for i in page.items if not i.hidden]
        advance(len(page.items))
        after = page.next
        if after is None:
            return found


def items_of_file(path: Path) -> list[Item]:
    """Read a catalogue as `offline datasets --source catalogue` does: JSONL, CSV or Parquet.

    Raises:
        OfflineError: the file is missing, of another format or holds no usable item.
    """
    read = load_catalogue(path).items
    return [Item(item.item_id, item.text, tuple(dict.fromkeys(item.categories))) for item in read]


def categories_of(items: Sequence[Item], least: int, is_listed: bool) -> list[Category]:
    """Find the categories of at least so many items, largest first.

    Raises:
        SimulatorError: there are none.
    """
    members: dict[str, list[str]] = {}
    for item in items:
        for name in item.categories:
            members.setdefault(name, []).append(item.item_id)
    if not members:
        raise SimulatorError(f"none of the {len(items)} items has a category; name a catalogue that has: --items FILE")
    found = [Category((name,), tuple(ids), is_listed) for name, ids in members.items() if len(ids) >= least]
    if not found:
        name, ids = max(members.items(), key=lambda entry: len(entry[1]))
        raise SimulatorError(f"--least {least}: no category has so many items; the largest, {name}, has {len(ids)}")
    return sorted(found, key=lambda category: (-len(category.item_ids), category.name))


def pairs_of(items: Sequence[Item], categories: Sequence[Category], least: int) -> list[Category]:
    """Find overlapping categories with at least `least` items in both, largest first, each category in one pair."""
    sizes = {category.name: len(category.item_ids) for category in categories}
    both: Counter[tuple[str, str]] = Counter()
    for item in items:
        both.update(combinations(sorted(name for name in item.categories if name in sizes), 2))
    found: list[Category] = []
    for (first, second), count in sorted(both.items(), key=lambda entry: (-entry[1], entry[0])):
        is_taken = any({first, second} & set(pair.parts) for pair in found)
        if count >= least and count <= _NEARLY_ALL * min(sizes[first], sizes[second]) and not is_taken:
            ids = tuple(item.item_id for item in items if {first, second} <= set(item.categories))
            found.append(Category((first, second), ids, is_listed=False))
    return found[:MAX_PAIRS]


def distinct(categories: Sequence[Category], n: int) -> list[Category]:
    """Choose at most `n` categories, each the one with the most items that are in none of those before."""
    chosen: list[Category] = []
    covered: set[str] = set()
    left = list(categories)
    while left and len(chosen) < n:
        best = max(left, key=lambda category: len(set(category.item_ids) - covered))
        chosen.append(best)
        covered |= set(best.item_ids)
        left.remove(best)
    return chosen
