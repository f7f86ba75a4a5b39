"""Metarank's events: `item`, `ranking`, `interaction`, and `user`, which says nothing that is used here.

https://docs.metarank.ai/reference/event-schema
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_KINDS = ("item", "ranking", "interaction", "user")


class Metarank:
    """Reads them; an event without a user is its session's, one without either its ranking's."""

    name = "events of Metarank"

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._items: dict[str, dict[str, Any]] = {}
        self._lines: dict[str, int] = {}  # that told of them last

    @staticmethod
    def is_row(row: Mapping[str, Any]) -> bool:
        """Check that a row is an event as Metarank has them."""
        kind = row.get("event")
        needed = {"ranking": "items", "interaction": "type"}.get(str(kind), kind)
        return kind in _KINDS and needed in row and "timestamp" in row and "id" in row

    def interactions(self, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """What was shown, and what was done with it."""
        kind = row.get("event")
        if kind in ("item", "user"):
            self.left_out[f"events of {kind}s say nothing of interactions"] += 1
        elif kind == "ranking":
            slate = row.get("id")
            items = row.get("items")
            shown = [item.get("id") for item in items if isinstance(item, dict)] if isinstance(items, list) else None
            yield {"user": _who(row, slate), "time": row.get("timestamp"), "slate": slate, "shown": shown}
        elif kind == "interaction":
            slate = row.get("ranking")
            yield {
                "user": _who(row, slate),
                "item": row.get("item"),
                "type": row.get("type"),
                "time": row.get("timestamp"),
                "slate": slate,
            }
        else:
            self.left_out["rows are no events of Metarank"] += 1

    def take_items(self, line: int, row: Mapping[str, Any]) -> None:
        """Remember an item's fields; later events change those that they name."""
        if row.get("event") != "item":
            self.left_out["events are not of items"] += 1
            return
        name = str(row.get("item"))
        self._lines[name], known = line, self._items.setdefault(name, {})
        fields = row.get("fields")
        for field in fields if isinstance(fields, list) else ():
            if isinstance(field, dict) and isinstance(field.get("name"), str):
                known[field["name"]] = field.get("value")
        known["id"] = row.get("item")

    def items(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """All items by their fields, each with its last line."""
        yield from ((self._lines[name], known) for name, known in self._items.items())


def _who(row: Mapping[str, Any], slate: object) -> object:
    return next((value for value in (row.get("user"), row.get("session"), slate) if value not in (None, "")), None)
