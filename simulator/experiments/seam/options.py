"""Tables of a declarative file as frozen dataclasses: what is unknown, missing or of another type is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from simulator.errors import SimulatorError

Config = TypeVar("Config")


def read_options(kind: type[Config], options: Mapping[str, Any], where: str) -> Config:
    """Make the dataclass `kind` of a table's values; a whole number will do for a float.

    Raises:
        SimulatorError: a value is unknown, missing or of the wrong type; the message begins with `where`.
    """
    hints, fields = get_type_hints(kind), dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    values = {}
    for name, value in options.items():
        if name not in names:
            raise SimulatorError(f"{where}: {name!r} is unknown; known are {', '.join(names) or 'none'}")
        try:
            values[name] = msgspec.convert(value, hints[name])
        except msgspec.ValidationError:
            raise SimulatorError(f"{where}: {name} = {value!r}; expected {_described(hints[name])}") from None
    if missing := [f.name for f in fields if f.name not in values and _is_required(f)]:
        raise SimulatorError(f"{where}: {', '.join(missing)} is missing")
    return kind(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) else str(hint)
