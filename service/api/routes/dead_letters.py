"""GET /dead-letters, POST /dead-letters/{entry_id}:replay, DELETE /dead-letters/{entry_id}"""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from service.api.errors import Problem
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared
from service.contract.operator import DeadLetterResponse, DeadLettersResponse, ReplayResponse

router = APIRouter(tags=["dead letters"], route_class=needs("admin"))
_ID = r"^\d{1,15}-\d{1,15}$"  # both halves fit into 64 bits
EntryId = Annotated[str, Path(pattern=_ID, description="The entry_id that GET /dead-letters gives.")]


@router.get("/dead-letters")
async def list_dead_letters(
    state: Shared,
    after: Annotated[str, Query(pattern=_ID, description="Only later entries; the last page's `next`.")] = "0-0",
    count: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> DeadLettersResponse:
    """Entries of the log that the worker could not use, oldest first, with the reason."""
    letters = await state.log.dead_letters(after, count)
    return DeadLettersResponse(
        dead_letters=[
            DeadLetterResponse(
                entry_id=letter.entry_id, reason=letter.reason, payload=base64.b64encode(letter.payload).decode()
            )
            for letter in letters
        ],
        next=letters[-1].entry_id if len(letters) == count else None,
    )


@router.post("/dead-letters/{entry_id:entry}:replay", responses=problems(404))
async def replay(entry_id: EntryId, state: Shared) -> ReplayResponse:
    """Append an entry to the log again, once the cause is gone; it is not a dead letter any more."""
    new = await state.log.replay(entry_id)
    if new is None:
        raise _unknown()
    return ReplayResponse(entry_id=new)


@router.delete("/dead-letters/{entry_id:entry}", status_code=HTTPStatus.NO_CONTENT, responses=problems(404))
async def discard(entry_id: EntryId, state: Shared) -> None:
    """Delete an entry for good."""
    if not await state.log.discard(entry_id):
        raise _unknown()


def _unknown() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown_dead_letter", "There is no such dead letter.")
