"""The HTTP contract. Unknown fields, wrong types and non-finite numbers are refused with the field's name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from service.contract.slate_warnings import SlateWarnings

MAX_ID_BYTES = 256
MAX_K = 100
MAX_IDS = 1_000
MAX_PAST = 200
MAX_EVENTS = 1_000
MAX_TEXT = 4_000
MAX_CATEGORIES = 100
MAX_FIELDS = 32


def _few_fields(data: Any) -> Any:
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
FeedbackType = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]


class Strict(BaseModel):
    """No coercion, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    _bounded = model_validator(mode="before")(_few_fields)


class PastInteraction(Strict):
    """An interaction that the request itself carries."""

    item_id: Id
    reward: Finite | None = Field(None, description="As in feedback; unset: the largest reward, that of a full like.")


class Filters(Strict):
    """Restricts what may be shown."""

    categories: list[Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES)]] | None = Field(
        None, max_length=100, description="Only items with any of these categories."
    )


def exactly_one(*names: str) -> dict[str, Any]:
    """Return a validator's rule as JSON Schema: exactly one of the fields is present and not null."""
    present = {"type": ["string", "number", "boolean"]}
    return {"oneOf": [{"required": [name], "properties": {name: present}} for name in names]}


def at_least_one(first: str, second: str) -> dict[str, Any]:
    """Return JSON Schema like that of `exactly_one`, where both fields may be present."""
    with_first, with_second = exactly_one(first, second)["oneOf"]
    with_second["properties"][first] = {"type": "null"}
    return {"oneOf": [with_first, with_second]}


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

    k: Whole = Field(10, ge=1, le=MAX_K, description="Number of slots.")
    context: Annotated[
        dict[Annotated[str, Field(max_length=64)], str | int | Finite | bool | None] | None,
        BeforeValidator(_few_fields),
    ] = Field(
        None,
        max_length=MAX_FIELDS,
        description="Free facts about the request; accepted and not yet used by any policy.",
    )
    candidate_item_ids: list[Id] | None = Field(None, max_length=MAX_IDS, description="Only these may be shown.")
    exclude_item_ids: list[Id] = Field([], max_length=MAX_IDS, description="These are not shown.")
    filters: Filters | None = None
    history: list[PastInteraction] | None = Field(
        None, max_length=MAX_PAST, description="Use this history, oldest first, instead of the stored session."
    )
    repeat: Literal["never", "when_empty", "freely"] | None = Field(
        None, description="Whether what the user has seen may be shown again; `IALP_REPEAT` if not given."
    )


class RecommendedItem(BaseModel):
    """One slot."""

    item_id: str
    slot: int = Field(description="0-based place.")
    score: float = Field(description="The policy's probability of the item in this state, before slots are drawn.")
    propensity: float = Field(description="Probability of the item at this slot, given the slots above it.")
    source: Literal["pretrained", "learned", "popularity", "catalogue"]


class RecommendResponse(BaseModel):
    """A slate."""

    recommendation_id: str
    policy_version: int = Field(description="0 when no policy is loaded.")
    arm: Literal["control", "adaptive", "fallback"]
    items: list[RecommendedItem]
    warnings: SlateWarnings


def _unix_seconds(value: object) -> object:
    """Unix seconds from milliseconds or an ISO 8601 time, in UTC if it names no zone; other things as they are."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is neither unix seconds or milliseconds nor an ISO 8601 time") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and _MOST_SECONDS < value <= 1000 * _MOST_SECONDS:
        return value / 1000
    return value


_MOST_SECONDS = 1e11  # beyond the year 5000: milliseconds
UnixSeconds = Annotated[
    float,
    BeforeValidator(_unix_seconds),
    Field(allow_inf_nan=False, ge=-_MOST_SECONDS, le=3 * _MOST_SECONDS),  # ISO times reach the year 9999
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -_MOST_SECONDS, "maximum": 1000 * _MOST_SECONDS},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


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


class ItemBody(Strict):
    """An item as it is put."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Heat (1995)", "categories": ["Action", "Crime"]}]}
    )

    text: NotBlank = Field(max_length=MAX_TEXT, description="What a person would read first: a title.")
    categories: list[Annotated[NotBlank, Field(max_length=MAX_ID_BYTES)]] = Field([], max_length=MAX_CATEGORIES)
    hidden: bool = Field(False, description="Kept, but never shown.")


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


class ItemBatchResponse(BaseModel):
    """Result of a batch."""

    created: int
    updated: int


class StoredInteraction(BaseModel):
    """An interaction as stored."""

    item_id: str
    reward: float


class UserResponse(BaseModel):
    """Stored data of a user."""

    user_id: str
    history: list[StoredInteraction]
    seen_item_ids: list[str]
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
