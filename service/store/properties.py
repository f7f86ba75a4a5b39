"""Items' properties by column, so that a condition is answered for a whole catalogue at once.

A column numbers the distinct values of its property. A comparison is answered for these, and the answer is then looked
up for every item: with a few distinct values it costs next to nothing, and of many numbers it is one pass in NumPy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from service.conditions import Compare, Condition, Every, Not, Value

Mask = npt.NDArray[np.bool_]
Stored: TypeAlias = Value | tuple[Value, ...]
_Key: TypeAlias = Any  # equal for equal values, and True is no 1


def stored_properties(properties: Mapping[str, Any]) -> dict[str, Stored]:
    """Return properties as they are stored: lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in properties.items()}


_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SOME = 1_024


_BOOLEANS = {True: object(), False: object()}


def _key(value: Stored) -> _Key:
    if isinstance(value, tuple):
        return tuple([_key(part) for part in value])
    return _BOOLEANS[value] if isinstance(value, bool) else value


def _time(value: Stored) -> float:
    """Unix seconds of an ISO 8601 time, in UTC if it names no zone; NaN for all else."""
    if not isinstance(value, str) or not value[:4].isdigit():
        return np.nan
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return np.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: Stored) -> float:
    return np.nan if isinstance(value, bool | str | tuple) else float(value)


class Column:
    """One property of all items: the number of each item's value, 0 for none."""

    def __init__(self) -> None:
        self._numbers = np.zeros(0, np.int32)  # [A or more]
        self._forget()

    def _forget(self) -> None:
        self.values: list[Stored] = [()]  # by number
        self._numbered: dict[_Key, int] = {}
        self._holding: dict[_Key, list[int]] = {}  # numbers of the values that are, or hold, one;
        self._held = 1  # of those below this
        self._converted_values: dict[Callable[[Stored], float], npt.NDArray[np.float64]] = {}

    def put(self, place: int, value: Stored | None) -> None:
        """Set an item's value; None, and an empty list, are none."""
        if place >= len(self._numbers):
            if value is None:
                return
            more = place + 1 - len(self._numbers) + len(self._numbers) // 8 + _SOME
            self._numbers = np.append(self._numbers, np.zeros(more, np.int32))
        self._numbers[place] = 0 if value is None or value == () else self._number_of(value)
        if len(self.values) > 2 * len(self._numbers) + _SOME:
            self._renumber()

    def _number_of(self, value: Stored) -> int:
        key = _key(value)
        number = self._numbered.get(key)
        if number is None:
            number = self._numbered[key] = len(self.values)
            self.values.append(value)
        return number

    def _renumber(self) -> None:
        """Forget values that no item has any more."""
        used, where = np.unique(self._numbers, return_inverse=True)
        values = [self.values[number] for number in used.tolist()]
        self._forget()
        new = [self._number_of(value) if value != () else 0 for value in values]
        self._numbers[:] = np.array(new, np.int32)[where.reshape(-1)]

    def first(self, n_items: int) -> npt.NDArray[np.int32]:
        """[n_items] numbers of the first items' values."""
        numbers = self._numbers[:n_items]
        missing = n_items - len(numbers)
        return np.concatenate([numbers, np.zeros(missing, np.int32)]) if missing > 0 else numbers

    def parts(self, number: int) -> tuple[Value, ...]:
        """Return the values in the value with a number."""
        value = self.values[number]
        return value if isinstance(value, tuple) else (value,)

    def fits(self, compare: Compare, n_items: int) -> Mask:
        """[A] which of the first `n_items` items fit."""
        return np.asarray(self._answers(compare)[self.first(n_items)])

    def _answers(self, compare: Compare) -> Mask:
        """[V] which of the distinct values fit."""
        answers = np.zeros(len(self.values), np.bool_)
        if compare.operator in _ORDERS:
            return self._ordered(_ORDERS[compare.operator], compare.values[0], answers)
        if compare.operator == "exists":
            answers[1:] = True
            return answers if compare.values[0] else ~answers
        answers[self.holding(compare.values)] = True
        return ~answers if compare.operator == "!=" else answers

    def holding(self, values: Iterable[Value]) -> list[int]:
        """Numbers of the distinct values that are, or hold, any of these."""
        for number in range(self._held, len(self.values)):
            for part in dict.fromkeys(map(_key, self.parts(number))):
                self._holding.setdefault(part, []).append(number)
        self._held = len(self.values)
        return [number for value in values for number in self._holding.get(_key(value), ())]

    def _ordered(self, compare: Callable[[Any, Any], Any], value: Value, answers: Mask) -> Mask:
        convert, bound = (_time, _time(value)) if isinstance(value, str) else (_number, float(value))
        if np.isnan(bound):  # texts by their characters
            for number, stored in enumerate(self.values):
                answers[number] = isinstance(stored, str) and compare(stored, value)
            return answers
        return np.asarray(compare(self._converted(convert), bound))

    def _converted(self, convert: Callable[[Stored], float]) -> npt.NDArray[np.float64]:
        """[V] the distinct values as numbers or times; NaN, which is in no order, for others."""
        converted = self._converted_values.get(convert, np.zeros(0))
        if len(converted) < len(self.values):
            converted = np.append(converted, [convert(value) for value in self.values[len(converted) :]])
            self._converted_values[convert] = converted
        return converted


class Columns:
    """All properties; shared by the catalogues that follow each other."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        """A property; an empty one if no item ever had it."""
        return self._columns.get(name, _NONE)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def put(self, place: int, properties: Mapping[str, Stored]) -> None:
        """Set all that an item has; what it had before is gone."""
        for name, column in self._columns.items():
            if name not in properties:
                column.put(place, None)
        for name, value in properties.items():
            self._columns.setdefault(name, Column()).put(place, value)

    def fits(self, condition: Condition, n_items: int) -> Mask:
        """[A] which of the first `n_items` items fit."""
        if isinstance(condition, Compare):
            return self[condition.name].fits(condition, n_items)
        if isinstance(condition, Not):
            return ~self.fits(condition.part, n_items)
        together = np.logical_and if isinstance(condition, Every) else np.logical_or
        parts = [self.fits(part, n_items) for part in condition.parts]
        return np.asarray(together.reduce(parts)) if parts else np.full(n_items, isinstance(condition, Every))


_NONE = Column()
