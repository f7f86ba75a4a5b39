"""The HTTP contract of what may be shown and how: filters, rules, placements."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from service.conditions import NAME, read_condition
from service.contract.base import MAX_DAYS, MAX_ID_BYTES, MAX_K, MAX_TYPES, FeedbackType, Id, Strict, Whole, whole

CONDITION = {"type": "object", "title": "Condition"}  # in the OpenAPI document its whole schema, which calls itself
MOST_PINS, MOST_BOOSTS, MOST_LIMITS = 20, 20, 5
MOST_BOOST = 10.0
MOST_DAYS = 365


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    read_condition(data)
    return data


ConditionObject = Annotated[dict[str, Any], AfterValidator(_checked), WithJsonSchema(dict(CONDITION))]
PropertyName = Annotated[str, Field(pattern=NAME)]
PLACEMENT = r"^[A-Za-z0-9_.:-]{1,64}$"
PlacementName = Annotated[str, Field(max_length=64, pattern=PLACEMENT)]
Slots = Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(whole)]
Repeat = Literal["never", "when_empty", "freely"]
ExcludedTypes = Annotated[
    list[FeedbackType],
    Field(
        max_length=MAX_TYPES,
        description="Never those items to which the user has responded with feedback of one of these types, such as "
        "`purchase`; not even where `repeat` is `freely`. Those of a placement are excluded, too. The latest "
        "`IALP_SEEN_LIMIT` items of each type are remembered.",
    ),
]
RepeatAfter = Annotated[
    float | None,
    Field(
        gt=0,
        le=MAX_DAYS,
        allow_inf_nan=False,
        description="What the user saw, or responded to, longer ago than so many days may be shown again.",
    ),
]


class Filters(Strict):
    """Restricts what may be shown."""

    categories: list[Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES)]] | None = Field(
        None, max_length=100, description="Only items with any of these categories."
    )
    where: ConditionObject | None = Field(None, description="Only items whose properties fit this condition.")


class Pin(Strict):
    """An item at a fixed slot, whatever the policy thinks of it."""

    slot: Whole = Field(ge=0, lt=MAX_K, description="0-based place.")
    item_id: Id


class Boost(Strict):
    """Makes items likelier, or less likely."""

    where: ConditionObject
    by: float = Field(
        allow_inf_nan=False,
        ge=-MOST_BOOST,
        le=MOST_BOOST,
        description="Added to the log odds of the items that fit: 0.7 doubles their odds against the others, -0.7 "
        "halves them. Several add up.",
    )


class AtMost(Strict):
    """Limits how many items of a slate have the same value of a property."""

    of: PropertyName = Field(description="A property, or `categories`. Of a list each value counts.")
    n: Whole = Field(ge=1, le=MAX_K)


class NewItems(Strict):
    """A least share for items that came into the catalogue lately."""

    share: float = Field(
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Least probability of each slot that the policy fills, given the slots above it, that its item is "
        "new, as long as one is left that may be shown.",
    )
    within_days: float = Field(
        gt=0, le=MOST_DAYS, allow_inf_nan=False, description="An item is new for so long, to the hour."
    )


class Rules(Strict):
    """Rules of a business for a slate. All propensities stay exact; what is pinned is not learned as a choice."""

    pins: list[Pin] = Field(
        [],
        max_length=MOST_PINS,
        description="Shown even if seen before or filtered out, but never if hidden or excluded.",
    )
    boosts: list[Boost] = Field(
        [],
        max_length=MOST_BOOSTS,
        description="In a catalogue of many items they act among the policy's candidates for this user.",
    )
    at_most: list[AtMost] = Field([], max_length=MOST_LIMITS, description="Pinned items count, and are never left out.")
    new_items: NewItems | None = Field(
        None, description="Items that the deployment began with are not new, nor one that was deleted and comes back."
    )

    @model_validator(mode="after")
    def _one_pin_each(self) -> Rules:
        if len({pin.slot for pin in self.pins}) < len(self.pins):
            raise ValueError("pins: two are for the same slot")
        return self


class Placement(Strict):
    """Defaults for the requests of one place of a page, mail or app."""

    k: Slots | None = Field(None, description="Number of slots.")
    filters: Filters | None = Field(None, description="The request's own filters restrict further.")
    rules: Rules | None = Field(None, description="A request that has rules of its own replaces them.")
    repeat: Repeat | None = None
    repeat_after_days: RepeatAfter = None
    exclude_feedback_types: ExcludedTypes = Field([])


class PlacementsResponse(BaseModel):
    """All stored placements."""

    placements: dict[str, Placement] = Field(description="By name.")
