"""Features as Azure Personalizer and Vowpal Wabbit have them, any JSON, as a text that a person would read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

Features = Sequence[dict[str, Any]] | None  # any JSON within

_TELLING = ("title", "name", "headline", "text", "description")  # what a person would read first, in this order


def text_of(item_id: str, features: Features, longest: int) -> str:
    """Build a text of at most `longest` characters that stands for an item: what its features call a title, then the
    others as `key: value`.

    Without any it is the item's id, in quotes if that is white space.
    """
    found = [(key, value.strip()) for key, value in scalars(features or ()) if value.strip()]
    telling = [value for word in _TELLING for key, value in found if _last_word(key) == word]
    others = [f"{key}: {value}" for key, value in found if _last_word(key) not in _TELLING]
    text = "; ".join(dict.fromkeys([*telling, *others]))[:longest]
    text = text.encode(errors="ignore").decode()  # half of a surrogate pair is JSON, but no text
    return next((name for name in (text, item_id) if name.strip()), f'"{item_id}"')


def _last_word(key: str) -> str:
    """Return the last word of a key in lower case: title for title, videoTitle, video_title and TITLE."""
    words: list[str] = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)
    return words[-1].lower() if words else ""


def scalars(features: Features) -> Iterator[tuple[str, str]]:
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
