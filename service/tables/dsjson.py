"""Logs of decisions as Vowpal Wabbit (`--dsjson`) and Azure Personalizer keep them: dsjson, a decision a line.

`a` numbers the actions of `c._multi` from 1, the one that was shown first, and `p` has their probabilities; a reward is
a cost below 0. Decisions for several slots (`_outcomes`) have all of this for each slot.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from service.tables.features import scalars, text_of

MAX_TEXT = 4_000  # of an item, in characters; a test holds it to the API's
_USERS = ("userId", "user_id", "sessionId", "session_id")  # as Personalizer's calls are read, in this order
_NOT_FEATURES = ("_tag", "constant")


class Dsjson:
    """Reads them. An action is an item: by its `_tag`, or an `id` among its features, or else by its features."""

    name = "decisions of Vowpal Wabbit or Azure Personalizer (dsjson)"

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._items: dict[str, tuple[int, str]] = {}  # last line and text, by name

    @staticmethod
    def is_row(row: Mapping[str, Any]) -> bool:
        """Check that a row is a decision."""
        context = row.get("c")
        return ("_label_cost" in row or "_outcomes" in row) and isinstance(context, dict) and "_multi" in context

    def interactions(self, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """What was shown, and which of it had a reward."""
        if not self.is_row(row):
            self.left_out["rows are no decisions"] += 1
        elif row.get("_skipLearn") is True or _was_never_activated(row):
            self.left_out["decisions were not to be learned from, or never activated"] += 1
        elif (slots := _slots(row)) is None:
            self.left_out["decisions do not say which action was shown"] += 1
        else:
            yield from _as_rows(row, slots)

    def take_items(self, line: int, row: Mapping[str, Any]) -> None:
        """Remember the actions of a decision; of the same one later features count."""
        if not self.is_row(row):
            self.left_out["rows are no decisions"] += 1
            return
        for action in _actions(row):
            facts = {name: value for name, value in action.items() if name not in _NOT_FEATURES}
            name = _name(action)
            self._items[name] = line, text_of(name, [_without(facts, name)], MAX_TEXT)

    def items(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """All actions, each with its last line, and a text made of its features."""
        yield from ((line, {"id": name, "text": text}) for name, (line, text) in self._items.items())


_Slot = tuple[str, float | None, float]  # the item shown, with which probability, its reward


def _as_rows(row: Mapping[str, Any], slots: list[_Slot]) -> Iterator[Mapping[str, Any]]:
    about = {"user": _user(row), "time": row.get("Timestamp"), "slate": row.get("EventId")}
    chances = [chance for _, chance, _ in slots]
    known = None if None in chances else chances
    yield {**about, "shown": [item for item, _, _ in slots], "propensities": known}
    for item, _, reward in slots:
        if reward != 0:
            liked = {"liked": False} if reward < 0 else {}
            yield {**about, "item": item, "value": reward, **liked}


def _slots(row: Mapping[str, Any]) -> list[_Slot] | None:
    """What was shown in each slot; None if that cannot be told."""
    names = [_name(action) for action in _actions(row)]
    outcomes = row.get("_outcomes")
    if not isinstance(outcomes, list):
        first = {"_label_cost": row.get("_label_cost"), "_a": row.get("a"), "_p": row.get("p")}
        first["_a"] = first["_a"] or [row.get("_label_Action")]
        first["_p"] = first["_p"] or [row.get("_label_probability")]
        outcomes, start = [first], 1
    else:
        start = 0  # these count actions from 0
    found = []
    for outcome in outcomes:
        try:
            place, cost = int(outcome["_a"][0]) - start, float(outcome["_label_cost"])
            chance = float(outcome["_p"][0]) if outcome.get("_p") and outcome["_p"][0] is not None else None
            if place < 0 or (chance is not None and not 0 < chance <= 1 + 1e-6):
                return None
            found.append((names[place], None if chance is None else min(1.0, chance), -cost))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
            return None
    return found or None


def _actions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    actions = row["c"].get("_multi")
    return [action if isinstance(action, dict) else {} for action in actions] if isinstance(actions, list) else []


def _name(action: Mapping[str, Any]) -> str:
    for facts in (action, *_objects(action)):
        for key in ("_tag", "id"):
            value = facts.get(key)
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                return str(value)
    written = repr(sorted(scalars([dict(action)]))).encode()
    return f"action-{hashlib.blake2b(written, digest_size=6).hexdigest()}"


def _objects(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The namespaces of an action or a context: its objects, and those in its lists."""
    for value in facts.values():
        yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict))


def _without(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Features without what only says the item's id again, or nothing."""

    def is_told(key: str, value: Any) -> bool:
        return not (key in _NOT_FEATURES or (key == "id" and str(value) == name))

    return {
        key: {k: v for k, v in value.items() if is_told(k, v)} if isinstance(value, dict) else value
        for key, value in facts.items()
        if is_told(key, value)
    }


def _user(row: Mapping[str, Any]) -> object:
    """Who a context names; else the decision is a visitor's of its own."""
    context = {name: value for name, value in row["c"].items() if name not in ("_multi", "_slots")}
    places = [context, *_objects(context)]
    for name in _USERS:
        for facts in places:
            if isinstance(facts.get(name), str | int) and facts[name] != "":
                return facts[name]
    for name, value in context.items():
        if "user" in name.casefold() and isinstance(value, dict) and value.get("id") not in (None, ""):
            return value["id"]
    return row.get("EventId")


def _was_never_activated(row: Mapping[str, Any]) -> bool:
    outcomes = row.get("o")
    is_active = isinstance(outcomes, list) and any(isinstance(o, dict) and o.get("ActionTaken") for o in outcomes)
    return row.get("DeferredAction") is True and not is_active and not row.get("_label_cost")
