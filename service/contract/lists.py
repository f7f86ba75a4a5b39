"""Lists that are the same for everybody."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ListedItem(BaseModel):
    """An item of a list that is the same for everybody."""

    item_id: str
    text: str
    categories: list[str]
    properties: dict[str, Any] = {}
    score: float | None = Field(
        description="Cosine to the item asked about, or of those who bought both; responses earned, or how far beyond "
        "chance these are; null where the order is not by a number."
    )


class ListResponse(BaseModel):
    """Items of a list, best first."""

    items: list[ListedItem]
    policy_version: int = Field(description="Version that tells what is similar; 0 when no policy is loaded.")
    waits_for: str | None = Field(
        None, description="What has yet to happen for the list to have items, if it has none."
    )
