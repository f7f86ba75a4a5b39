"""Conditions on items: what `filters.where` and rules say, read from JSON.

    {"price": {"<=": 20}, "brand": ["Acme", "Initech"], "sold_out": false}        all of these
    {"or": [{"price": {"<": 5}}, {"not": {"categories": "Horror"}}]}              `and`, `or` and `not` of such objects

A property stands beside a value (it has this one), a list of values (any of these), or comparisons (all of these): `=`,
`!=`, `in`, `<`, `<=`, `>`, `>=`, `exists`. Property `categories` is the item's categories. Where a property is a list,
`=` and `in` look for one that is in it. An item without the property fits `!=`, `{"exists": false}` and what `not`
makes of the others. Numbers compare with numbers, texts with texts, and both as times where both are ISO 8601.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

MAX_PARTS = 100  # comparisons of a condition
MAX_DEPTH = 20
MAX_VALUES = 1_000  # of `in`
MAX_VALUE = 1_000  # characters of a text
NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"
CATEGORIES = "categories"
RESERVED = frozenset({"and", "or", "not"})

Value: TypeAlias = bool | int | float | str
Operator = Literal["=", "!=", "in", "<", "<=", ">", ">=", "exists"]
_OPERATORS = frozenset(get_args(Operator))
_LARGEST = 1e300
_ORDER = frozenset({"<", "<=", ">", ">="})
_is_name = re.compile(NAME).fullmatch


@dataclass(frozen=True)
class Compare:
    """One property compared; `values` has one value, or those of `in`."""

    name: str
    operator: Operator
    values: tuple[Value, ...]
    _booleans: tuple[bool, ...] = field(init=False, default=())  # so that true does not equal 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "_booleans", tuple([isinstance(value, bool) for value in self.values]))


@dataclass(frozen=True)
class Every:
    """All parts hold; true without any."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Some:
    """A part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Condition


Condition: TypeAlias = Compare | Every | Some | Not


def read_condition(data: object) -> Condition:
    """Read a condition from decoded JSON.

    Raises:
        ValueError: it is none; the message says where and why.
    """
    condition = _object(data, "", 0)
    if _n_parts(condition) > MAX_PARTS:
        raise ValueError(f"has more than {MAX_PARTS} comparisons")
    return condition


def _n_parts(condition: Condition) -> int:
    """Return how many comparisons there are, and objects that hold nothing."""
    if isinstance(condition, Compare):
        return 1
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return max(1, sum(map(_n_parts, parts)))


def comparisons(condition: Condition) -> list[Compare]:
    """List the comparisons that a condition is made of."""
    if isinstance(condition, Compare):
        return [condition]
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return [compare for part in parts for compare in comparisons(part)]


def value_problem(value: object) -> str | None:
    """Say why a value is none that a property can have or be compared with; None if it is one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if abs(value) <= _LARGEST else "must be a finite number"
    if not isinstance(value, str):
        return "must be a text, a number, true or false"
    if not is_unicode(value):
        return "must be a text of whole Unicode characters"
    return None if len(value) <= MAX_VALUE else f"must have at most {MAX_VALUE} characters"


def is_unicode(text: str) -> bool:
    """Check that a text has no half of a surrogate pair, which no answer could quote."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(data: object, path: str, depth: int) -> Condition:
    if not isinstance(data, dict):
        raise ValueError(f"{path}must be an object")
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep")
    if len(data) > MAX_PARTS:
        raise ValueError(f"{path}must have at most {MAX_PARTS} fields")
    parts: list[Condition] = []
    for name, content in cast("dict[str, Any]", data).items():
        inside = f"{path}{name[:64] if is_unicode(name) else ascii(name[:64])}: "
        if name == "not":
            parts.append(Not(_object(content, inside, depth + 1)))
        elif name in RESERVED:
            if not isinstance(content, list) or not 1 <= len(content) <= MAX_PARTS:
                raise ValueError(f"{inside}must be a list of 1 to {MAX_PARTS} conditions")
            some = tuple(_object(one, f"{inside}{n}: ", depth + 1) for n, one in enumerate(content))
            parts.append(Every(some) if name == "and" else Some(some))
        elif not _is_name(name):
            raise ValueError(f"{inside}is no name of a property (letters, digits, `_`, `.`, `-`; 64 at most)")
        else:
            parts.append(_property(name, content, inside))
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _property(name: str, data: object, path: str) -> Condition:
    if isinstance(data, list):
        return Compare(name, "in", _values(data, path))
    if not isinstance(data, dict):
        return Compare(name, "=", (_value(data, path),))
    if not data:
        raise ValueError(f"{path}needs a comparison: {', '.join(sorted(_OPERATORS))}")
    parts = tuple(_comparison(name, operator, value, path) for operator, value in data.items())
    return parts[0] if len(parts) == 1 else Every(parts)


def _comparison(name: str, operator: object, value: object, path: str) -> Compare:
    if operator not in _OPERATORS:
        raise ValueError(f"{path}{str(operator)[:64]!r} is no comparison: {', '.join(sorted(_OPERATORS))}")
    inside = f"{path}{operator}: "
    if operator == "in":
        return Compare(name, "in", _values(value, inside))
    if operator == "exists" and not isinstance(value, bool):
        raise ValueError(f"{inside}must be true or false")
    if operator in _ORDER and isinstance(value, bool):
        raise ValueError(f"{inside}must be a number or a text")
    return Compare(name, cast("Operator", operator), (_value(value, inside),))


def _values(values: object, path: str) -> tuple[Value, ...]:
    if not isinstance(values, list) or len(values) > MAX_VALUES:
        raise ValueError(f"{path}must be a list of at most {MAX_VALUES} values")
    return tuple(_value(value, path) for value in values)


def _value(value: object, path: str) -> Value:
    if problem := value_problem(value):
        raise ValueError(f"{path}{problem}")
    return cast("Value", value)


_VALUE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "maxLength": MAX_VALUE},
        {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
        {"type": "boolean"},
    ]
}
_ORDERED: dict[str, Any] = {"anyOf": _VALUE_SCHEMA["anyOf"][:2]}
_VALUES_SCHEMA: dict[str, Any] = {"type": "array", "maxItems": MAX_VALUES, "items": _VALUE_SCHEMA}


def condition_schema(reference: str) -> dict[str, Any]:
    """JSON Schema of a condition, which calls itself by `reference`."""
    inner = {"$ref": reference}
    several = {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": inner}
    compared = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            **dict.fromkeys(("=", "!="), _VALUE_SCHEMA),
            **dict.fromkeys(sorted(_ORDER), _ORDERED),
            "in": _VALUES_SCHEMA,
            "exists": {"type": "boolean"},
        },
    }
    return {
        "type": "object",
        "title": "Condition",
        "description": "A condition on items' properties; all fields must hold. A property stands beside a value, a "
        "list of values of which any will do, or an object of comparisons.",
        "maxProperties": MAX_PARTS,
        "propertyNames": {"pattern": NAME},
        "properties": {"and": several, "or": several, "not": inner},
        "additionalProperties": {"anyOf": [*_VALUE_SCHEMA["anyOf"], _VALUES_SCHEMA, compared]},
        "examples": [{"price": {"<=": 20}, "brand": ["Acme", "Initech"], "not": {"categories": "Horror"}}],
    }
