"""Parts of the HTTP contract that its schemas share: bounds, identifiers, numbers and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

MAX_ID_BYTES = 256
MAX_K = 100
DEFAULT_K = 10
MAX_SLATES = 20
MAX_IDS = 1_000
MAX_PAST = 200
MAX_EVENTS = 1_000
MAX_TEXT = 4_000
MAX_CATEGORIES = 100
MAX_FIELDS = 32
MAX_TYPES = 20
MAX_DAYS = 3_650


def few_fields(data: Any) -> Any:
    """Refuse too many fields: each wrong one is an error of its own, and a hundred thousand would hold up everybody."""
    if isinstance(data, dict) and len(data) > MAX_FIELDS:
        raise ValueError(f"must have at most {MAX_FIELDS} fields")
    return data


def _checked_id(value: str) -> str:
    if len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"must be at most {MAX_ID_BYTES} bytes of UTF-8")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be only white space")
    return value


def whole(value: object) -> object:
    """Convert 5.0 to 5: JSON Schema, and some clients, write whole numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES), AfterValidator(_checked_id)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
# Kept as it was put, with white space at its ends: what is read is what was sent.
NotBlank = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"\S"}), AfterValidator(_not_blank)]
TYPE = r"^[A-Za-z0-9_.:-]+$"
FeedbackType = Annotated[str, Field(min_length=1, max_length=64, pattern=TYPE)]


class Strict(BaseModel):
    """No coercion, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    _bounded = model_validator(mode="before")(few_fields)


def exactly_one(*names: str) -> dict[str, Any]:
    """Return a validator's rule as JSON Schema: exactly one of the fields is present and not null."""
    present = {"type": ["string", "number", "boolean"]}
    return {"oneOf": [{"required": [name], "properties": {name: present}} for name in names]}


def at_least_one(first: str, second: str) -> dict[str, Any]:
    """Return JSON Schema like that of `exactly_one`, where both fields may be present."""
    with_first, with_second = exactly_one(first, second)["oneOf"]
    with_second["properties"][first] = {"type": "null"}
    return {"oneOf": [with_first, with_second]}


def _unix_seconds(value: object) -> object:
    """Unix seconds from milliseconds or an ISO 8601 time, in UTC if it names no zone; other things as they are."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is neither unix seconds or milliseconds nor an ISO 8601 time") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return min(seconds, _MOST_SECONDS)  # for ever; above it a number would be read as milliseconds
    if isinstance(value, int | float) and not isinstance(value, bool) and _MOST_SECONDS < value <= 1000 * _MOST_SECONDS:
        return value / 1000
    return value


_MOST_SECONDS = 1e11  # beyond the year 5000: milliseconds
UnixSeconds = Annotated[
    float,
    BeforeValidator(_unix_seconds),
    Field(allow_inf_nan=False, ge=-_MOST_SECONDS, le=_MOST_SECONDS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -_MOST_SECONDS, "maximum": 1000 * _MOST_SECONDS},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]
