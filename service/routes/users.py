"""GET and DELETE /users/{user_id}"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path

from service import sessions
from service.errors import Problem
from service.events import UserErased
from service.openapi import problems
from service.routes.recommend import arm_of
from service.schemas import Id, StoredInteraction, UserResponse
from service.state import Shared

router = APIRouter(tags=["users"])
UserId = Annotated[Id, Path(description="Opaque, any Unicode, at most 256 bytes.")]


@router.get("/users/{user_id:opaque}", responses=problems(404))
async def get_user(user_id: UserId, state: Shared) -> UserResponse:
    """What is stored of a user."""
    user = sessions.user_key(user_id, None)
    session = await sessions.load(state.redis, state.keys, user)
    if not session.history and not session.seen:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_user", "Nothing is stored of this user.")
    return UserResponse(
        user_id=user_id,
        history=[StoredInteraction(item_id=item, reward=reward) for item, reward in session.history],
        seen_item_ids=sorted(session.seen),
        arm=arm_of(state, user).value,
    )


@router.delete("/users/{user_id:opaque}", status_code=HTTPStatus.NO_CONTENT)
async def erase_user(user_id: UserId, state: Shared) -> None:
    """Forget a user: the session at once; open impressions are dropped by the worker, not learned from."""
    user = sessions.user_key(user_id, None)
    await sessions.erase(state.redis, state.keys, user)
    await state.log.append(UserErased(user))
