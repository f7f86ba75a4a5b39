"""PUT, GET and DELETE /placements/{name}, GET /placements"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Response

from service.api.errors import Problem
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared
from service.contract.filters import Placement, PlacementName, PlacementsResponse

router = APIRouter(tags=["placements"], route_class=needs("admin"))
Name = Annotated[PlacementName, Path(description="As in the `placement` of a request, such as `home`.")]


@router.get("/placements")
async def list_placements(state: Shared) -> PlacementsResponse:
    """All stored placements."""
    await state.placements.refresh()
    return PlacementsResponse(placements=state.placements.all())


@router.put("/placements/{name}", responses={201: {"description": "Created", "model": Placement}})
async def put_placement(name: Name, placement: Placement, response: Response, state: Shared) -> Placement:
    """Create or replace what a placement shows. It holds for the next answer of this process, and within half a second
    for those of others."""
    created = await state.placements.put(name, placement.model_dump_json(exclude_none=True).encode())
    response.status_code = HTTPStatus.CREATED if created else HTTPStatus.OK
    return placement


@router.get("/placements/{name}", responses=problems(404))
async def get_placement(name: Name, state: Shared) -> Placement:
    """A placement as stored."""
    await state.placements.refresh()
    stored = state.placements.all().get(name)
    if stored is None:
        raise _unknown()
    return Placement.model_validate(stored)


@router.delete("/placements/{name}", status_code=HTTPStatus.NO_CONTENT, responses=problems(404))
async def delete_placement(name: Name, state: Shared) -> None:
    """Forget what a placement shows. Requests may go on to name it."""
    if not await state.placements.delete(name):
        raise _unknown()


def _unknown() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown_placement", "There is no such placement.")
