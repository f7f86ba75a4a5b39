"""The HTTP contract. Unknown fields, wrong types and non-finite numbers are refused with the field's name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.contract.base import (
    MAX_FIELDS,
    MAX_IDS,
    MAX_PAST,
    MAX_SLATES,
    FeedbackType,
    Finite,
    Id,
    Strict,
    UnixSeconds,
    at_least_one,
    exactly_one,
    few_fields,
)
from service.contract.filters import ExcludedTypes, Filters, PlacementName, Repeat, RepeatAfter, Rules, Slots
from service.contract.slate_warnings import SlateWarnings


class PastInteraction(Strict):
    """An interaction that the request itself carries."""

    item_id: Id
    reward: Finite | None = Field(None, description="As in feedback; unset: the largest reward, that of a full like.")


class Who(Strict):
    """A user, or a visitor without an account."""

    user_id: Id | None = None
    session_id: Id | None = Field(None, description="For visitors without an account.")

    @model_validator(mode="after")
    def _one_of(self) -> Who:
        if (self.user_id is None) == (self.session_id is None):
            raise ValueError("exactly one of user_id and session_id is needed")
        return self


class Somebody(Strict):
    """A user, or a visitor without an account, or, with both, a user who was this visitor until now: the visitor's
    session then becomes part of the user's."""

    user_id: Id | None = None
    session_id: Id | None = Field(
        None, description="For visitors without an account. With a `user_id`, as after a login: joins both."
    )

    @model_validator(mode="after")
    def _some(self) -> Somebody:
        if self.user_id is None and self.session_id is None:
            raise ValueError("user_id or session_id is needed")
        return self


class RecommendRequest(Somebody):
    """Ask for a slate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "ann", "k": 5}], **at_least_one("user_id", "session_id")}
    )

    k: Slots | None = Field(None, description="Number of slots; that of the placement if not given, or else 10.")
    context: Annotated[
        dict[Annotated[str, Field(max_length=64)], str | int | Finite | bool | None] | None,
        BeforeValidator(few_fields),
    ] = Field(
        None,
        max_length=MAX_FIELDS,
        description="Free facts about the request; accepted and not yet used by any policy.",
    )
    candidate_item_ids: list[Id] | None = Field(None, max_length=MAX_IDS, description="Only these may be shown.")
    exclude_item_ids: list[Id] = Field([], max_length=MAX_IDS, description="These are not shown.")
    exclude_feedback_types: ExcludedTypes = Field([])
    filters: Filters | None = None
    history: list[PastInteraction] | None = Field(
        None, max_length=MAX_PAST, description="Use this history, oldest first, instead of the stored session."
    )
    repeat: Repeat | None = Field(
        None, description="Whether what the user has seen may be shown again; `IALP_REPEAT` if not given."
    )
    repeat_after_days: RepeatAfter = None
    rules: Rules | None = Field(None, description="Pins, boosts and limits for this slate.")
    placement: PlacementName | None = Field(
        None,
        description="Where the slate is shown, such as `home`: logged with it, and what the placement says holds where "
        "the request says nothing.",
    )
    include_items: bool = Field(False, description="Return the text, categories and properties of each item, too.")


class PageSlate(Strict):
    """One slate of a page; its fields are those of a request for a single one."""

    placement: PlacementName | None = None
    k: Slots | None = None
    candidate_item_ids: list[Id] | None = Field(None, max_length=MAX_IDS)
    filters: Filters | None = None
    rules: Rules | None = None
    repeat: Repeat | None = None
    repeat_after_days: RepeatAfter = None
    exclude_feedback_types: ExcludedTypes = Field([])


class PageRequest(Somebody):
    """Ask for all slates of a page at once: no item comes twice on it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user_id": "ann", "slates": [{"placement": "top", "k": 3}, {"placement": "also", "k": 5}]}],
            **at_least_one("user_id", "session_id"),
        }
    )

    slates: list[PageSlate] = Field(min_length=1, max_length=MAX_SLATES, description="In the order of the page.")
    exclude_item_ids: list[Id] = Field([], max_length=MAX_IDS, description="Shown in none of them.")
    history: list[PastInteraction] | None = Field(None, max_length=MAX_PAST)
    include_items: bool = False


class RecommendedItem(BaseModel):
    """One slot."""

    item_id: str
    slot: int = Field(description="0-based place.")
    score: float = Field(description="The policy's probability of the item in this state, before slots are drawn.")
    propensity: float = Field(description="Probability of the item at this slot, given the slots above it.")
    source: Literal["pretrained", "learned", "popularity", "catalogue", "pinned"]
    text: str | None = Field(None, description="Only if the request says `include_items`, as the two below.")
    categories: list[str] | None = None
    properties: dict[str, Any] | None = None


class RecommendResponse(BaseModel):
    """A slate."""

    recommendation_id: str
    policy_version: int = Field(description="0 when no policy is loaded.")
    arm: Literal["control", "adaptive", "fallback"]
    items: list[RecommendedItem]
    warnings: SlateWarnings


class PageResponse(BaseModel):
    """The slates of a page."""

    slates: list[RecommendResponse] = Field(description="As many as were asked for, in their order.")


class FeedbackEvent(Somebody):
    """A response to one item. Give one of `type`, `reward` and `undo`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"event_id": "e-1", "user_id": "ann", "item_id": "318", "type": "click"}],
            "allOf": [at_least_one("user_id", "session_id"), exactly_one("type", "reward", "undo")],
        }
    )

    event_id: Id = Field(description="Chosen by the client; a repeated one is a duplicate and counts once.")
    item_id: Id
    recommendation_id: Id | None = Field(
        None,
        description="Of the slate it answers. Without one it is organic: it joins the history, a like teaches less.",
    )
    type: FeedbackType | None = Field(None, description="One of the configured types, such as click.")
    reward: Finite | None = None
    undo: Literal[True] | None = Field(
        None,
        description="Takes back the user's responses to the item: it leaves the history, an open slate's slot counts as"
        " no response again, and likes of it are not learned from any more.",
    )
    occurred_at: UnixSeconds | None = Field(
        None,
        description="When it happened: unix seconds, unix milliseconds, or an ISO 8601 time; now if not given, or if "
        "it lies in the future. A history is in this order, however late an event arrives. Events older than "
        "`IALP_SESSION_TTL_S` do not join it.",
    )

    @model_validator(mode="after")
    def _one_response(self) -> FeedbackEvent:
        if sum(given is not None for given in (self.type, self.reward, self.undo)) != 1:
            raise ValueError("exactly one of type, reward and undo is needed")
        return self


class Rejection(BaseModel):
    """An event of an array that was not accepted; the others were."""

    index: int
    event_id: str | None
    code: str
    message: str


class FeedbackResponse(BaseModel):
    """Result of a feedback request; the accepted events are durable when it arrives."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]
    outcomes: dict[Literal["teaches", "organic", "late", "foreign", "unknown"], int] = Field(
        {},
        description="Number of accepted events by what they do. `teaches`: the policy learns from the slate. `organic`:"
        " names no slate, and a like teaches less. The others join the history alone: `late`, after the slate's reward"
        " window; `foreign`, for another user's slate; `unknown`, for a slate that no policy drew.",
    )


class StoredInteraction(BaseModel):
    """An interaction as stored."""

    item_id: str
    reward: float


class UserResponse(BaseModel):
    """Stored data of a user."""

    user_id: str
    history: list[StoredInteraction]
    seen_item_ids: list[str]
    items_by_feedback_type: dict[str, list[str]] = Field(
        {}, description="Items by the types of the responses to them, the oldest first."
    )
    arm: Literal["control", "adaptive"]


class Health(BaseModel):
    """State of the process."""

    status: Literal["ok", "unavailable"]
    policy_version: int | None = None
    reasons: list[str] = []


class FieldProblem(BaseModel):
    """One thing that is wrong with a request; `field` is empty where it is the whole body."""

    field: str
    code: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem]
