"""The HTTP contract of /preview."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.contract.base import MAX_IDS, MAX_K, MAX_PAST, Id, Strict, Whole, whole
from service.contract.filters import ExcludedTypes, Filters, RepeatAfter
from service.contract.schemas import PastInteraction, StoredInteraction
from service.contract.slate_warnings import SlateWarnings


class PreviewRequest(Strict):
    """Ask what a user would be shown. Without `user_id` and `session_id` it is a stranger, who has no history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"history": [{"item_id": "318"}], "baseline": [], "k": 5}],
            "anyOf": [{"properties": {"user_id": {"type": "null"}}}, {"properties": {"session_id": {"type": "null"}}}],
        }
    )

    user_id: Id | None = None
    session_id: Id | None = None
    arm: Literal["control", "adaptive"] | None = Field(
        None, description="Whose policy answers. By default that of the user's arm; a stranger's is the adaptive one."
    )
    k: Whole = Field(10, ge=1, le=MAX_K, description="Slots of a slate; all answers are about slates of this length.")
    candidate_item_ids: list[Id] | None = Field(None, max_length=MAX_IDS, description="Only these may be shown.")
    exclude_item_ids: list[Id] = Field([], max_length=MAX_IDS, description="These are not shown.")
    exclude_feedback_types: ExcludedTypes = Field([])
    filters: Filters | None = None
    repeat_after_days: RepeatAfter = None
    history: list[PastInteraction] | None = Field(
        None, max_length=MAX_PAST, description="Use this history, oldest first, instead of the stored session."
    )
    baseline: list[PastInteraction] | None = Field(
        None,
        max_length=MAX_PAST,
        description="Compare with a user who has this history, oldest first; an empty one is a stranger's. Items of"
        " both histories are not shown, so that both choose among the same.",
    )
    item_ids: list[Id] = Field([], max_length=MAX_IDS, description="Include the probability of these items, too.")
    seed: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(whole)] | None = Field(
        None, description="Seed of the slates that are drawn: the same seed gives the same answer."
    )

    @model_validator(mode="after")
    def _not_both(self) -> PreviewRequest:
        if self.user_id is not None and self.session_id is not None:
            raise ValueError("at most one of user_id and session_id is allowed")
        return self


class PreviewedItem(BaseModel):
    """An item and how likely it is."""

    item_id: str
    text: str
    categories: list[str]
    probability: float = Field(description="Probability of the first slot: what /recommend calls `score`.")
    in_slate: float = Field(description="Probability of being anywhere in a slate of `k`.")
    baseline_in_slate: float | None = Field(description="The same with the history `baseline`; null without one.")


class PreviewedCategory(BaseModel):
    """All items of a category together."""

    category: str
    items: int = Field(description="How many of its items may be shown.")
    share: float = Field(description="Expected share of the slots of a slate of `k` that its items get.")
    baseline_share: float | None = Field(description="The same with the history `baseline`; null without one.")


class Comparison(BaseModel):
    """Difference between the two histories' slates."""

    total_variation: float = Field(
        description="Of the expected shares of slots: 0 where they are the same, 1 with nothing in common."
    )
    more_likely: list[PreviewedItem] = Field(description="At most `k` items, largest difference first.")
    less_likely: list[PreviewedItem] = Field(description="At most `k` items, largest difference first.")


class PreviewResponse(BaseModel):
    """A preview: what would be shown, and how likely. Exact for the first slot, else estimated from 40 slates."""

    arm: Literal["control", "adaptive"] = Field(description="Whose policy answered; the control's while frozen.")
    policy_version: int
    history: list[StoredInteraction] = Field(
        description="As the policy sees it: responses, then what was shown in vain, each oldest first."
    )
    slate: list[PreviewedItem] = Field(description="One that could be shown, by slot.")
    likeliest: list[PreviewedItem] = Field(description="The `k` items that are likeliest to be in it, likeliest first.")
    items: list[PreviewedItem] = Field(description="The `item_ids` that are in the catalogue, in their order.")
    categories: list[PreviewedCategory] = Field(
        description="By number of items, most first; at most 1,000. An item counts for each of its categories."
    )
    comparison: Comparison | None = Field(description="Null without a `baseline`.")
    warnings: SlateWarnings
