"""Read the features in a request of Personalizer's clients: the user it is for, and a text for an action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.api.errors import invalid
from service.conditions import is_unicode
from service.contract.base import MAX_TEXT, Id
from service.contract.context import MAX_NAME, MOST_FACTS, FactValue, n_facts
from service.policy.context import ContextValue
from service.store import sessions
from service.tables.features import text_of as features_text

Features = Sequence[dict[str, Any]] | None  # any JSON within

_id: TypeAdapter[str] = TypeAdapter(Id)
_value: TypeAdapter[Any] = TypeAdapter(FactValue)
_MOST_LOOKED_AT = 1_000  # facts, however deep
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


def facts_in(features: Features) -> dict[str, ContextValue]:
    """The facts in a context, of what it holds within an object under `outer.inner`: the first that come to as many
    features as a request may have, without the ids of users and sessions and what is no fact (null, long texts)."""
    found: dict[str, ContextValue] = {}
    left = MOST_FACTS
    waiting: list[tuple[str, Any]] = [(name, value) for facts in features or () for name, value in facts.items()]
    for name, value in waiting:  # which grows meanwhile
        if name in _NAMES or left <= 0 or len(waiting) > _MOST_LOOKED_AT:
            continue
        if isinstance(value, dict):
            waiting.extend((f"{name}.{inner}", one) for inner, one in value.items())
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            waiting.extend((f"{name}.{inner}", one) for facts in value for inner, one in facts.items())
        elif (fact := _fact(value)) is not None and 0 < len(name) <= MAX_NAME and is_unicode(name):
            left -= n_facts({name: fact})
            found |= {name: fact} if left >= 0 else {}
    return found


def _fact(value: Any) -> ContextValue | None:
    try:
        fact: ContextValue | None = _value.validate_python(value, strict=True)
    except ValidationError:
        return None
    return fact


def _checked(value: str, field: str) -> str:
    try:
        return _id.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid([{"field": field, "code": first["type"], "message": first["msg"]}]) from None


def text_of(item_id: str, features: Features) -> str:
    """Build a text that stands for an item, at most as long as one may be; see `service.tables.features`."""
    return features_text(item_id, features, MAX_TEXT)
