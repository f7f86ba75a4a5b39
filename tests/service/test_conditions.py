"""Conditions on items: what is read, what is refused, and that columns answer as plain Python does."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.conditions import Compare, Every, Not, Some, read_condition
from service.store.availability import Schedule, window_of
from service.store.properties import Column, Columns, Stored


def test_a_condition_is_read() -> None:
    said = {
        "price": {">=": 5, "<": 20.5},
        "brand": ["Acme", "Initech"],
        "sold_out": False,
        "or": [{"colour": "red"}, {"not": {"size": {"exists": True}}}],
    }
    assert read_condition(said) == Every(
        (
            Every((Compare("price", ">=", (5,)), Compare("price", "<", (20.5,)))),
            Compare("brand", "in", ("Acme", "Initech")),
            Compare("sold_out", "=", (False,)),
            Some((Compare("colour", "=", ("red",)), Not(Compare("size", "exists", (True,))))),
        )
    )
    assert read_condition({}) == Every(())
    assert Compare("a", "=", (1,)) != Compare("a", "=", (True,)), "answers are remembered by condition"


def nested(depth: int) -> dict[str, Any]:
    said: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        said = {"not": said}
    return said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "must be an object"),
        ("price < 5", "must be an object"),
        ({"price": {"under": 5}}, "price: 'under' is no comparison"),
        ({"price": {}}, "price: needs a comparison"),
        ({"price": {"<": True}}, "price: <: must be a number or a text"),
        ({"price": {"<": [1]}}, "price: <: must be a text, a number"),
        ({"price": {"in": 5}}, "price: in: must be a list"),
        ({"price": {"in": [5, None]}}, "price: in: must be a text, a number"),
        ({"price": {"exists": 1}}, "price: exists: must be true or false"),
        ({"price": None}, "price: must be a text, a number"),
        ({"price": float("nan")}, "price: must be a finite number"),
        ({"price": 10**400}, "price: must be a finite number"),
        ({"brand": "a" * 1_001}, "brand: must have at most 1000 characters"),
        ({"brand": ["a"] * 1_001}, "brand: must be a list of at most 1000 values"),
        ({"or": []}, "or: must be a list of 1 to 100"),
        ({"and": {"a": 1}}, "and: must be a list"),
        ({"or": [{"a": 1}, {"b": None}]}, "or: 1: b: must be a text"),
        ({"not": [1]}, "not: must be an object"),
        ({"2nd": 1}, "2nd: is no name of a property"),
        ({"a": 1, "b c": 1}, "b c: is no name"),
        (nested(30), "nested more than 20 deep"),
        ({"or": [{f"a{n}": 1, f"b{n}": 1} for n in range(60)]}, "more than 100 comparisons"),
    ],
)
def test_what_is_none_is_refused_with_its_place(said: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_condition(said)


SCALARS = st.sampled_from([True, False, 0, 1, 2, 2.5, -3, "1", "a", "b", "2024-05-01", "2024-05-01T00:00:00+02:00"])
VALUES = st.one_of(st.none(), SCALARS, st.lists(SCALARS, max_size=3).map(tuple))
NAMES = st.sampled_from(["x", "y"])
ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool))
COMPARED = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.fixed_dictionaries({"exists": st.booleans()}),
    *(st.fixed_dictionaries({name: ORDERED}) for name in ("<", "<=", ">", ">=")),
    *(st.fixed_dictionaries({name: SCALARS}) for name in ("=", "!=")),
)
CONDITIONS = st.recursive(
    st.dictionaries(NAMES, COMPARED, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=5,
)


def same(one: object, other: object) -> bool:
    return bool(isinstance(one, bool) == isinstance(other, bool) and one == other)


def seconds(text: object) -> float | None:
    try:
        moment = datetime.fromisoformat(str(text)) if isinstance(text, str) and len(text) > 4 else None
    except ValueError:
        return None
    return None if moment is None else (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def holds(value: Stored | None, name: str, said: Any) -> bool:
    """One comparison, in plain words."""
    parts = () if value is None else value if isinstance(value, tuple) else (value,)
    if name == "exists":
        return bool(parts) is bool(said)
    if name in ("=", "!="):
        return any(same(part, said) for part in parts) is (name == "=")
    if name == "in":
        return any(same(part, one) for part in parts for one in said)
    compare: Callable[[Any, Any], object] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[
        name
    ]
    if isinstance(value, bool | tuple) or value is None or isinstance(value, str) != isinstance(said, str):
        return False
    then, bound = seconds(value), seconds(said)
    if bound is not None:
        return then is not None and bool(compare(then, bound))
    return bool(compare(value, said))


def fits(item: dict[str, Stored], said: dict[str, Any]) -> bool:
    for name, inner in said.items():
        if name == "not":
            found = not fits(item, inner)
        elif name in ("or", "and"):
            found = (any if name == "or" else all)(fits(item, one) for one in inner)
        else:
            compared = inner if isinstance(inner, dict) else {"in" if isinstance(inner, list) else "=": inner}
            found = all(holds(item.get(name), *one) for one in compared.items())
        if not found:
            return False
    return True


@given(st.lists(st.dictionaries(NAMES, VALUES.filter(lambda v: v is not None)), max_size=6), CONDITIONS)
def test_columns_answer_as_plain_python_does(items: list[dict[str, Stored]], said: dict[str, Any]) -> None:
    columns = Columns()
    for place, item in enumerate(reversed(items)):  # what was there before leaves nothing behind
        columns.put(place, item)
    for place, item in enumerate(items):
        columns.put(place, item)
    found = columns.fits(read_condition(json.loads(json.dumps(said))), len(items) + 1)
    assert found.tolist() == [fits(item, said) for item in [*items, {}]]


def test_values_that_no_item_has_any_more_are_forgotten() -> None:
    column = Column()
    for change in range(5_000):
        column.put(change % 3, float(change))
        column.put(3, ("a", "b"))
    assert len(column.values) < 3_200
    assert column.fits(Compare("x", ">=", (4_998,)), 4).tolist() == [True, True, False, False]
    assert column.fits(Compare("x", "=", ("b",)), 4).tolist() == [False, False, False, True]


def test_windows_open_and_close() -> None:
    schedule, visible = Schedule(), np.array([True, True, True, False])
    assert schedule.apply(visible, 0.0) is visible
    schedule.put(0, window_of(10.0, 20.0))
    schedule.put(1, window_of(None, 15.0))
    schedule.put(3, window_of(10.0, None))  # hidden all the same
    schedule.put(9, window_of(0.0, 1.0))  # of an item that only a later catalogue has
    expected = {5.0: [0, 1, 1, 0], 10.0: [1, 1, 1, 0], 14.9: [1, 1, 1, 0], 15.0: [1, 0, 1, 0], 20.0: [0, 0, 1, 0]}
    for now in (*expected, *reversed(expected)):
        assert schedule.apply(visible, now).tolist() == [bool(shown) for shown in expected[now]]
    assert schedule.apply(visible, 11.0) is schedule.apply(visible, 14.0), "nothing is made anew before the next turn"
    schedule.put(0, None)
    assert schedule.apply(visible, 50.0)[0]
