"""POST /personalizer/.../rank, .../events/{eventId}/reward and .../activate, as Azure Personalizer had them.

With a version in the path, as its REST interface and first clients have it, and without, as the last ones.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from service.api import personalizer
from service.api.guard import holds_key, needs
from service.api.openapi import problems
from service.api.state import Shared
from service.contract.base import Id
from service.contract.personalizer import RankRequest, RankResponse, RewardRequest

EventId = Annotated[Id, Path(alias="eventId", description="Opaque, any Unicode, at most 256 bytes.")]

_ranks = APIRouter(route_class=needs("serve", without_redis=True))
_events = APIRouter(route_class=needs("feedback"))


@_ranks.post("/rank", status_code=HTTPStatus.CREATED, responses=problems(404))
async def rank(body: RankRequest, request: Request, state: Shared) -> RankResponse:
    """Choose which of up to 50 items to show. An action that is not an item yet is added as one, with a text made from
    its features, if the key has the scope `admin` too. Features of an existing item are not read: PUT /items changes
    its text.
    """
    return await personalizer.rank(body, holds_key(state, request.scope["headers"], ("admin",)), state)


@_events.post("/events/{eventId:opaque}/reward", status_code=HTTPStatus.NO_CONTENT, responses=problems(404))
async def reward(event_id: EventId, body: RewardRequest, state: Shared) -> None:
    """The reward of what was shown; 204 means that it is durable. An event's first reward counts, later ones change
    nothing; nor does that of an event whose activation was deferred and never came."""
    await personalizer.reward(event_id, body.value, state)


@_events.post("/events/{eventId:opaque}/activate", status_code=HTTPStatus.NO_CONTENT, responses=problems(404))
async def activate(event_id: EventId, state: Shared) -> None:
    """Record that what was ranked with `deferActivation` has been shown; from now on a reward is waited for."""
    await personalizer.activate(event_id, state)


async def _version(
    version: Annotated[str, Path(pattern=r"^v1\.(0|1(-preview\.[0-9]{1,3})?)$", examples=["v1.0"])],
) -> None:
    """All versions are answered alike."""


router = APIRouter(tags=["personalizer"])
for part in (_ranks, _events):
    versioned = "/personalizer/{version:personalizer_version}"
    router.include_router(part, prefix=versioned, dependencies=[Depends(_version)])
    router.include_router(part, prefix="/personalizer", include_in_schema=False)
