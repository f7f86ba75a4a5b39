"""Read the features in a request of Personalizer's clients: the user it is for, and a text for an action."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.api.errors import invalid
from service.contract.base import MAX_TEXT, Id
from service.store import sessions

Features = Sequence[dict[str, Any]] | None  # any JSON within

_id: TypeAdapter[str] = TypeAdapter(Id)
_NAMES = {"userId": True, "user_id": True, "sessionId": False, "session_id": False}  # whether it names a user


def find_user(features: Features) -> str | None:
    """Find the user, or else the session, that a context names, as `sessions.user_key`; None if it names nobody.

    Raises:
        Problem: 422, it is not an id.
    """
    for name, of_user in _NAMES.items():
        for place, facts in enumerate(features or ()):
            value = facts.get(name)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                continue
            found = _checked(str(value), f"contextFeatures.{place}.{name}")
            return sessions.user_key(found, None) if of_user else sessions.user_key(None, found)
    return None


def _checked(value: str, field: str) -> str:
    try:
        return _id.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid([{"field": field, "code": first["type"], "message": first["msg"]}]) from None


_TELLING = ("title", "name", "headline", "text", "description")  # what a person would read first, in this order


def text_of(item_id: str, features: Features) -> str:
    """Build a text that stands for an item: what its features call a title, then the others as `key: value`.

    Without any it is the item's id, in quotes if that is white space.
    """
    found = [(key, value.strip()) for key, value in _scalars(features or ()) if value.strip()]
    telling = [value for word in _TELLING for key, value in found if _last_word(key) == word]
    others = [f"{key}: {value}" for key, value in found if _last_word(key) not in _TELLING]
    text = "; ".join(dict.fromkeys([*telling, *others]))[:MAX_TEXT]
    text = text.encode(errors="ignore").decode()  # half of a surrogate pair is JSON, but no text
    return next((name for name in (text, item_id) if name.strip()), f'"{item_id}"')


def _last_word(key: str) -> str:
    """Return the last word of a key in lower case: title for title, videoTitle, video_title and TITLE."""
    words: list[str] = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)
    return words[-1].lower() if words else ""


def _scalars(features: Features) -> Iterator[tuple[str, str]]:
    """Names and values of all features, however deep, in their order; a list of scalars is one value."""
    waiting: list[tuple[str, Any]] = [("", facts) for facts in reversed(features or ())]
    while waiting:  # no recursion: how deep it goes is the client's choice
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(reversed(value.items()))
        elif isinstance(value, list):
            nested = [part for part in value if isinstance(part, dict | list)]
            waiting.extend((key, part) for part in reversed(nested))
            yield key, ", ".join(_written(part) for part in value if not isinstance(part, dict | list))
        else:
            yield key, _written(value)


def _written(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value)
