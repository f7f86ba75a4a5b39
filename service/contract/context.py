"""The HTTP contract of facts about requests and users: `context`, and the features that are stored of a user."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from service.conditions import MAX_VALUE
from service.contract.base import MAX_FIELDS, Strict, few_fields
from service.contract.items import PropertyValue

MAX_NAME = 64
MOST_OF_LIST = 16
MOST_FACTS = 64  # texts of lists count one each, numbers two
TOO_MANY = f"come to more than {MOST_FACTS} features: a number counts as two, a list as many as it has texts"

FactName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
FactValue = PropertyValue | Annotated[list[Annotated[str, Field(max_length=MAX_VALUE)]], Field(max_length=MOST_OF_LIST)]


def n_facts(facts: dict[str, Any]) -> int:
    """Return how many features facts come to, at most."""
    return sum(_weight(value) for value in facts.values() if value is not None)


def _weight(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return 1 if isinstance(value, str | bool) else 2


def few_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Refuse facts that come to too many features."""
    if len(facts) > MAX_FIELDS:
        raise ValueError(f"must have at most {MAX_FIELDS} fields")
    if n_facts(facts) > MOST_FACTS:
        raise ValueError(TOO_MANY)
    return facts


_BOUNDS = Field(json_schema_extra={"maxProperties": MAX_FIELDS})
Facts = Annotated[dict[FactName, FactValue | None], BeforeValidator(few_fields), AfterValidator(few_facts), _BOUNDS]


class UserBody(Strict):
    """Features of a user; those that were stored before go."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"features": {"country": "at", "age": 34, "interests": ["sci-fi", "opera"]}}]}
    )

    features: Facts = Field(description="Texts, numbers, true or false, and lists of texts; null is as if not there.")


class UserPatch(Strict):
    """Changes of a user's features; those that are not named stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"features": {"country": "ch", "age": None}}]})

    features: Facts = Field(description="These change; null takes one away.")
