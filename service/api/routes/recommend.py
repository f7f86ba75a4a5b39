"""POST /recommend for requests that `fast_path` leaves to us, and as the OpenAPI document has it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api import fast_path
from service.api.guard import needs
from service.api.state import Shared
from service.contract.schemas import RecommendRequest, RecommendResponse

router = APIRouter(tags=["serve"], route_class=needs(*fast_path.SCOPES, without_redis=True))


@router.post("/recommend", response_model=RecommendResponse)
async def recommend(request: RecommendRequest, state: Shared) -> Response:
    """A slate for a user or an anonymous session. Without Redis it answers from memory and says so in `warnings`."""
    answer = await fast_path.recommend(fast_path.fast_request(request), state)
    return Response(fast_path.encoded(answer), media_type="application/json")
