"""The HTTP contract, the operator's part: versions, what the arms earn, dead letters, erasure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.base import Id, Strict, exactly_one
from service.contract.items import ItemResponse
from service.contract.schemas import Who


class ActivateRequest(Strict):
    """Options of an activation."""

    follow: bool = Field(True, description="Whether the worker's later versions may take over.")
    force: bool = Field(False, description="Activate a version that the gate refused, too.")


class PolicyResponse(BaseModel):
    """A version with its lineage and gate result."""

    version: int
    parent: int | None
    created_at: float
    variant: str
    learner: dict[str, Any]
    lineage: dict[str, Any]
    metrics: dict[str, float]
    gate_passed: bool
    gate_reasons: list[str]
    gate_numbers: dict[str, float]
    gate_share: float = Field(
        description="Largest share of what is learned in this version: less than 1 while the log could not judge it."
    )


class FindingResponse(BaseModel):
    """Result of the watch for everything that served since a version began."""

    since_version: int
    difference: float = Field(description="Reward per impression of the adaptive arm less the control's.")
    low: float = Field(description="Lower end of an interval that holds at every moment at once.")
    high: float = Field(description="Upper end; far enough below zero, the versions are rolled back.")
    control: float = Field(description="Reward per impression of the control.")
    alpha: float = Field(description="This version's share of the probability of a false alarm.")


class RollBackResponse(BaseModel):
    """An automatic roll-back."""

    finding: FindingResponse
    version: int = Field(description="The version that serves since.")
    mode: Literal["auto", "held", "frozen"]
    at: float = Field(description="Unix seconds.")


class ShadowResponse(BaseModel):
    """Estimated reward per slot of the shadow version, from what was shown instead."""

    version: int
    impressions: int
    agreement: float = Field(description="Mean share of its slate that was shown.")
    value: float | None = Field(description="Reward per slot; null where the log cannot tell.")
    low: float | None = Field(description="Lower end of the 95% interval.")
    high: float | None = Field(description="Upper end of the 95% interval.")
    ess: float = Field(description="Effective sample size, in slots.")


class PoliciesResponse(BaseModel):
    """All versions, newest first, which one serves, and what was rolled back for being worse than the control."""

    live_version: int | None
    mode: Literal["auto", "held", "frozen"] | None
    shadow_version: int | None = Field(description="The shadow version: it computes and logs slates, and serves none.")
    policies: list[PolicyResponse]
    rollbacks: list[RollBackResponse]


class LiveResponse(BaseModel):
    """The live pointer after a change."""

    live_version: int = Field(description="The version that serves; while frozen, the one that would serve otherwise.")
    mode: Literal["auto", "held", "frozen"] = Field(
        description="auto: the worker's newer versions take its place; held: they wait; frozen: everybody gets the"
        " pre-trained policy."
    )
    shadow_version: int | None


class ArmReport(BaseModel):
    """One arm's rewards."""

    impressions: int
    reward_mean: float = Field(description="Reward per impression.")
    reward_low: float = Field(description="Lower end of the 95% interval.")
    reward_high: float = Field(description="Upper end of the 95% interval.")


class PowerResponse(BaseModel):
    """Smallest loss of the adaptive arm, against the control, that the watch would notice by now."""

    groups: int = Field(description="Groups of users (of 64) with users in the smaller arm; at least 6 are needed.")
    control: int = Field(description="Closed slates of the control.")
    least_loss: float | None = Field(
        description="Smallest loss that would be noticed, as a share of the control's reward; null: none would be."
    )
    more_control: int | None = Field(
        description="Further slates of the control that it takes to notice a loss of a quarter; null if not known."
    )


class EvaluationResponse(BaseModel):
    """Arms side by side, and the off-policy estimate of the newest version."""

    arms: dict[str, ArmReport]
    placements: dict[str, dict[str, ArmReport]] = Field(
        description="Arms by the `placement` of requests; at most 100 of these are told apart."
    )
    off_policy: dict[str, float]
    shadow: ShadowResponse | None = Field(description="The newest shadow version, if there was one.")
    watch: list[FindingResponse] = Field(description="Adaptive arm against control, by version, oldest first.")
    power: PowerResponse | None = Field(description="Smallest loss that this watch would notice by now.")
    alignment: dict[str, float] = Field(
        description="How far the language model's judgements can be trusted. `alignment_*` was measured before any "
        "user came (docs/guides/own-llm.md). `prior_gain_item` and `prior_gain_personal` with their 95% intervals "
        "are users' own answers (A-iALP_ap): 1 as far as claimed, 0 not at all, below 0 the opposite."
    )


class DeadLetterResponse(BaseModel):
    """An entry of the log that could not be used."""

    entry_id: str = Field(description="Its id in the log; the first half is unix milliseconds.")
    reason: str
    payload: str = Field(description="The entry's bytes in base64: msgpack, if it was written by this service.")


class DeadLettersResponse(BaseModel):
    """A page of dead letters, oldest first."""

    dead_letters: list[DeadLetterResponse]
    next: str | None = Field(description="What to give as `after` for the next page; null on the last one.")


class ReplayResponse(BaseModel):
    """Result of a replay: the entry that the dead letter became."""

    entry_id: str = Field(description="Its new id in the log.")


class ErasedResponse(BaseModel):
    """Result of an erasure: what was deleted of a user, and what cannot be."""

    session: bool = Field(description="Whether there was a session.")
    impressions: int
    feedback: int
    dead_letters: int
    remains: list[str]


class ImportResponse(BaseModel):
    """A run of `python -m service import`. Times are unix seconds by Redis' clock."""

    import_id: str
    file: str = Field(description="Name of the file, without its folder.")
    started_at: float
    told_at: float = Field(description="When it last told of itself: every second or so while it runs.")
    state: Literal["reading", "writing", "done", "stopped", "failed"] = Field(
        description="stopped: interrupted; what it had written stays. One that was killed goes on to read or write."
    )
    rows: int = Field(description="Rows of the file that can be used, read so far.")
    users: int | None = Field(description="Users in the file; null until it has been read.")
    interactions: int = Field(description="Interactions that were taken; known at the end.")
    changed: int = Field(description="Users whose histories changed, so far.")
    same: int = Field(description="Users whose histories had all of it already, so far.")
    left_out: list[str] = Field(description="How many rows were left out, and why; known at the end.")
    notes: list[str] = Field(description="What was recognised and assumed of the file; known at the end.")
    problem: str = Field(description="Why it failed; empty otherwise.")


class ImportsResponse(BaseModel):
    """The latest imports, newest first."""

    imports: list[ImportResponse]


class ItemsResponse(BaseModel):
    """Some items of the catalogue."""

    items: list[ItemResponse]
    next: str | None = Field(description="What to give as `after` for the next page; null on the last one.")
    found_by: Literal["words", "meaning"] | None = Field(
        None,
        description="With `search`: whether the items have all its words, or some of them or a meaning close to it.",
    )


class ExplainRequest(Who):
    """Ask which liked items explain why a user may see these items."""

    model_config = ConfigDict(json_schema_extra=exactly_one("user_id", "session_id"))

    item_ids: list[Id] = Field(min_length=1, max_length=100)


class NearItem(BaseModel):
    """An item that the user liked, and how close it is."""

    item_id: str
    text: str
    closeness: float = Field(description="Cosine of the two items' vectors in the policy that serves this user.")


class ExplainedItem(BaseModel):
    """An item, with what the user liked that is closest to it."""

    item_id: str
    text: str
    categories: list[str]
    nearest: list[NearItem] = Field(description="At most three liked items, closest first.")


class RememberedItem(BaseModel):
    """A response of the user that the policy sees."""

    item_id: str
    text: str
    reward: float


class ExplainResponse(BaseModel):
    """Items of the catalogue, in the order of the request, and the responses that they are compared with."""

    arm: Literal["control", "adaptive"]
    policy_version: int
    history: list[RememberedItem] = Field(description="Oldest first.")
    items: list[ExplainedItem]


class ShownItem(BaseModel):
    """A slot of a logged slate."""

    item_id: str
    text: str
    propensity: float
    reward: float | None = Field(description="Sum of the rewards so far; null without a response.")


class ImpressionResponse(BaseModel):
    """A logged slate with the feedback that names it."""

    recommendation_id: str
    at: float = Field(description="Unix seconds.")
    user: str = Field(description="u: and a user's id, or s: and an anonymous session's.")
    arm: str
    policy_version: int
    weight: float = Field(description="Share of the learned policy in the mixture.")
    entropy: float = Field(description="Of the policy, in nats.")
    items: list[ShownItem]


class ImpressionsResponse(BaseModel):
    """The latest slates, newest first."""

    impressions: list[ImpressionResponse]
