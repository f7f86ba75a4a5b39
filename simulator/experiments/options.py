"""Options of a method: what stands in the configuration file, checked against the method's own frozen dataclass."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from simulator.errors import SimulatorError

Config = TypeVar("Config")


def read_options(kind: type[Config], options: Mapping[str, Any], method: str) -> Config:
    """The dataclass `kind` with these values in place of its defaults; a whole number will do for a float.

    Raises:
        SimulatorError: an option is unknown or its value is of the wrong type.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name, value in options.items():
        if name not in names:
            raise SimulatorError(f"{method}: option {name!r} is unknown; known are {', '.join(names) or 'none'}")
        if not _fits(value, hints[name]):
            raise SimulatorError(f"{method}: option {name} = {value!r}; expected {_described(hints[name])}")
    return kind(**options)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(_fits(v, get_args(hint)[1]) for v in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) else str(hint)
