"""POST /recommend for requests that `fast_path` leaves to us, and as the OpenAPI document has it; POST
/recommend:page."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Response

from service.api import fast_path
from service.api.guard import needs
from service.api.state import Shared
from service.contract.schemas import PageRequest, PageResponse, RecommendRequest, RecommendResponse

router = APIRouter(tags=["serve"], route_class=needs(*fast_path.SCOPES, without_redis=True))


@router.post("/recommend", response_model=RecommendResponse)
async def recommend(request: RecommendRequest, state: Shared) -> Response:
    """A slate for a user or an anonymous session. Without Redis it answers from memory and says so in `warnings`."""
    answer = await fast_path.recommend(fast_path.fast_request(request), state)
    return Response(fast_path.encoded(answer), media_type="application/json")


@router.post("/recommend:page", response_model=PageResponse)
async def recommend_page(request: PageRequest, state: Shared) -> Response:
    """Several slates of one page for a user: each is drawn, logged and learned from like one that is first for alone,
    without the items of those before it. Its propensities are given these."""
    shared = request.model_dump(exclude={"slates", "exclude_item_ids"})
    shown = list(request.exclude_item_ids)
    answers = []
    for slate in request.slates:
        one = RecommendRequest.model_validate({**shared, **slate.model_dump()})
        first = fast_path.fast_request(one)
        answers.append(await fast_path.recommend(msgspec.structs.replace(first, exclude_item_ids=shown), state))
        shown = [*shown, *(item.item_id for item in answers[-1].items)]
    return Response(fast_path.encoded_page(answers), media_type="application/json")
