"""GET and DELETE /users/{user_id}"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path

from service.api.errors import Problem
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared
from service.contract.base import Id
from service.contract.operator import ErasedResponse
from service.contract.schemas import StoredInteraction, UserResponse
from service.store import sessions
from service.store.events import UserErased

router = APIRouter(tags=["users"], route_class=needs("admin"))
UserId = Annotated[Id, Path(description="Opaque, any Unicode, at most 256 bytes.")]


@router.get("/users/{user_id:opaque}", responses=problems(404))
async def get_user(user_id: UserId, state: Shared) -> UserResponse:
    """Show what is stored of a user."""
    user = sessions.user_key(user_id, None)
    session = await state.session(user)
    history, seen = session.named(state.watch.catalogue.ids)
    if not history and not seen:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_user", "Nothing is stored of this user.")
    return UserResponse(
        user_id=user_id,
        history=[StoredInteraction(item_id=item, reward=reward) for item, reward in history],
        seen_item_ids=sorted(set(seen)),
        items_by_feedback_type={
            name: session.names_of(places, state.watch.catalogue.ids) for name, places in session.by_type().items()
        },
        arm=state.recommender.arm_of(user).value,
    )


_REMAINS = [
    "What the policy learned from this user is in its weights, together with everybody else's, and in those of earlier"
    " versions; it does not name them.",
    "The worker drops what it holds of their slates and likes, in its checkpoints too, when it reads of this erasure in"
    " the log.",
    "The log says that this user was erased until IALP_STREAM_RETENTION_S is over, so that the worker learns of it.",
    "Ids of feedback events are remembered as used until IALP_DEDUPE_TTL_S is over; they do not name the user.",
    "Files that `export` wrote before are not changed.",
]


@router.delete("/users/{user_id:opaque}")
async def erase_user(user_id: UserId, state: Shared) -> ErasedResponse:
    """Forget a user, and the visitors without an account that they were: session, impressions and feedback in the log,
    and events that wait for a reward, at once; the worker drops what it holds of them."""
    user = sessions.user_key(user_id, None)
    visitors = await state.sessions.visitors(user)
    session, removed = False, Counter[str]()
    for name in (user, *visitors):
        session |= await state.sessions.erase(name)
        await state.ranked.erase(name)
        await state.log.append(UserErased(name))
        removed.update(await state.log.erase(name))
    return ErasedResponse(session=session, **removed, remains=_REMAINS)
