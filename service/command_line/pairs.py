"""Options of the form `name=value,name=value`."""

from __future__ import annotations

from collections.abc import Collection


def pairs(given: str | None, option: str, names: Collection[str] | None = None) -> dict[str, str]:
    """Values by name.

    Args:
        given: what the user wrote; None for nothing.
        option: its name, for messages.
        names: those that there are; None if any is.

    Raises:
        ValueError: a name is not one of these, or has no value; the message says which, and how to write it.
    """
    split = [pair.partition("=") for pair in given.split(",")] if given else []
    found = {name.strip(): value.strip() for name, _, value in split}
    known = next(iter(names), "") if names else ""
    for name, value in found.items():
        if names is not None and name not in names:
            raise ValueError(f"{option}: {name!r} is not one of {', '.join(names)}; write it as {known}=COLUMN,...")
        if not name or not value:
            raise ValueError(f"{option}: {name or value!r} needs a value; write it as {name or 'name'}=VALUE,...")
    return found
