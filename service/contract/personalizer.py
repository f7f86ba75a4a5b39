"""The HTTP contract, the part with the shapes of Azure Personalizer: what its clients send and read, in camelCase."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.contract.base import Finite, Id, Strict

MAX_ACTIONS = 50

Features = Annotated[list[dict[str, Any]], Field(description="Objects with any JSON in them.")]


class RankableAction(Strict):
    """An item, one of which is to be shown."""

    id: Id = Field(description="The item's id.")
    features: Features | None = Field(
        None, description="An item that is not in the catalogue yet gets its text from these; else they are not read."
    )


class RankRequest(Strict):
    """Ask which of some items to show."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        json_schema_extra={
            "examples": [
                {
                    "contextFeatures": [{"userId": "ann", "timeOfDay": "Morning"}],
                    "actions": [
                        {"id": "NewsArticle", "features": [{"title": "Elections today", "type": "News"}]},
                        {"id": "SportsArticle", "features": [{"title": "The final", "type": "Sports"}]},
                        {"id": "EntertainmentArticle", "features": [{"type": "Entertainment"}]},
                    ],
                    "excludedActions": ["SportsArticle"],
                    "eventId": "75269AD0-BFEE-4598-8196-C57383D38E10",
                    "deferActivation": False,
                }
            ]
        },
    )

    actions: list[RankableAction] = Field(min_length=1, max_length=MAX_ACTIONS)
    context_features: Features | None = Field(
        None,
        description="The user: a `userId` (or `user_id`), else a `sessionId` (or `session_id`), a text or a whole "
        "number at the top level of any object. Without one the event is a visitor of its own. All else are "
        "facts about the request, as `context` of /recommend; the first that come to 64 features count.",
    )
    excluded_actions: list[Id] | None = Field(None, max_length=MAX_ACTIONS, description="Ids of actions not to show.")
    event_id: Id | None = Field(
        None, description="By default the service chooses one. Sent again, it gets the same action and counts once."
    )
    defer_activation: bool | None = Field(
        None, description="True: the answer counts as shown only once the event is activated."
    )


class RankedAction(BaseModel):
    """An action and how likely it was."""

    id: str
    probability: float = Field(description="Of being chosen; 0 if it was excluded, or is hidden or deleted.")


class RankResponse(BaseModel):
    """Result of a ranking: the action to show."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    ranking: list[RankedAction] = Field(
        description="The one to show, then by falling probability; what was excluded keeps its place in the request."
    )
    event_id: str = Field(description="For its reward, and its activation if that was deferred.")
    reward_action_id: str = Field(description="The action to show.")


class RewardRequest(Strict):
    """The reward of what was shown."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": 1.0}]})

    value: Finite
