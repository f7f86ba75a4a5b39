"""POST /recommend for requests that `hot_path` leaves to us, and as the OpenAPI document has it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service import hot_path
from service.guard import needs
from service.schemas import RecommendRequest, RecommendResponse
from service.state import Shared

router = APIRouter(tags=["serve"], route_class=needs(*hot_path.SCOPES, without_redis=True))


@router.post("/recommend", response_model=RecommendResponse)
async def recommend(request: RecommendRequest, state: Shared) -> Response:
    """A slate for a user or an anonymous session. Without Redis it answers from memory and says so in `warnings`."""
    answer = await hot_path.recommend(hot_path.ask_of(request), state)
    return Response(hot_path.encoded(answer), media_type="application/json")
