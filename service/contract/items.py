"""The HTTP contract of items."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from service.conditions import CATEGORIES, MAX_VALUE, NAME, RESERVED
from service.contract.base import (
    MAX_CATEGORIES,
    MAX_FIELDS,
    MAX_ID_BYTES,
    MAX_IDS,
    MAX_TEXT,
    Id,
    NotBlank,
    Strict,
    UnixSeconds,
    few_fields,
)
from service.contract.filters import PropertyName
from service.contract.item_warnings import ItemWarningCounts, ItemWarnings

PropertyValue = (
    Annotated[str, Field(max_length=MAX_VALUE)]
    | bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
)
MOST_LISTED = 100


def _free_names(properties: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted({CATEGORIES, *RESERVED}.intersection(properties)):
        raise ValueError(f"{taken[0]} is no name for a property")
    return properties


PropertyValues = PropertyValue | Annotated[list[PropertyValue], Field(max_length=MOST_LISTED)]
_NAMES = Field(
    json_schema_extra={
        "maxProperties": MAX_FIELDS,
        "propertyNames": {"pattern": NAME, "not": {"enum": [*sorted({CATEGORIES, *RESERVED})]}},
    },
)
Properties = Annotated[
    dict[PropertyName, PropertyValues], BeforeValidator(few_fields), AfterValidator(_free_names), _NAMES
]
ChangedProperties = Annotated[
    dict[PropertyName, PropertyValues | None], BeforeValidator(few_fields), AfterValidator(_free_names), _NAMES
]


class ItemBody(Strict):
    """An item as it is put."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Heat (1995)", "categories": ["Action", "Crime"]}]}
    )

    text: NotBlank = Field(max_length=MAX_TEXT, description="What a person would read first: a title.")
    categories: list[Annotated[NotBlank, Field(max_length=MAX_ID_BYTES)]] = Field([], max_length=MAX_CATEGORIES)
    hidden: bool = Field(False, description="Kept, but never shown.")
    properties: Properties = Field(
        {}, description="Facts to filter by, and for rules: texts, numbers, true or false, and lists of these."
    )
    available_from: UnixSeconds | None = Field(None, description="Not shown before: unix seconds or ISO 8601.")
    available_until: UnixSeconds | None = Field(None, description="Not shown from then on.")


class ItemPatch(Strict):
    """Changes of an item; what is not given stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"properties": {"price": 12.5, "sale": None}}]})

    text: NotBlank | None = Field(None, max_length=MAX_TEXT)
    categories: list[Annotated[NotBlank, Field(max_length=MAX_ID_BYTES)]] | None = Field(
        None, max_length=MAX_CATEGORIES
    )
    hidden: bool | None = None
    properties: ChangedProperties = Field({}, description="These change; null takes one away.")
    available_from: UnixSeconds | None = Field(None, description="Null: from always.")
    available_until: UnixSeconds | None = Field(None, description="Null: for ever.")


class BatchItem(ItemBody):
    """An item with its id."""

    item_id: Id


class ItemBatch(Strict):
    """Many items at once."""

    items: list[BatchItem] = Field(min_length=1, max_length=MAX_IDS)


class ItemResponse(BaseModel):
    """An item as stored."""

    item_id: str
    text: str
    categories: list[str]
    hidden: bool
    properties: dict[str, Any] = {}
    available_from: float | None = None
    available_until: float | None = None


class PutItemResponse(ItemResponse):
    """An item as stored, and what is to be known of its text."""

    warnings: ItemWarnings = []


class ItemBatchResponse(BaseModel):
    """Result of a batch."""

    created: int
    updated: int
    warnings: ItemWarningCounts = {}
