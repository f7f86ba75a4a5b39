"""Read the features in a request of Personalizer's clients: the user it is for, and a text for an action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.api.errors import invalid
from service.contract.base import MAX_TEXT, Id
from service.store import sessions
from service.tables.features import text_of as features_text

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


def text_of(item_id: str, features: Features) -> str:
    """Build a text that stands for an item, at most as long as one may be; see `service.tables.features`."""
    return features_text(item_id, features, MAX_TEXT)
