"""POST /recommend"""

from __future__ import annotations

import logging

from fastapi import APIRouter
from redis.exceptions import RedisError

from service import sessions, slates, telemetry
from service.events import Impression
from service.guard import needs
from service.policy.adaptive import Arm
from service.policy.types import session_state
from service.schemas import RecommendRequest, RecommendResponse
from service.sessions import Session
from service.state import Shared, State

router = APIRouter(tags=["serve"], route_class=needs("serve", without_redis=True))
log = logging.getLogger(__name__)


def arm_of(state: State, user: str) -> Arm:
    """The arm a user belongs to: always the same one."""
    is_control = sessions.share_of(user, "arm") < state.settings.control_share
    return Arm.CONTROL if is_control else Arm.ADAPTIVE


@router.post("/recommend")
async def recommend(request: RecommendRequest, state: Shared) -> RecommendResponse:
    """A slate for a user or an anonymous session. Without Redis it answers from memory and says so in `warnings`."""
    user = sessions.user_key(request.user_id, request.session_id)
    warnings: list[str] = []
    redis_answers = True  # after one failure it is not asked again: a request waits for one time-out at most
    try:
        with telemetry.span("session"):
            session = await sessions.load(state.quick, state.keys, user)
        if session.catalogue_seq != state.watch.catalogue.seq:
            await state.watch.sync_catalogue(session.catalogue_seq)
    except (RedisError, OSError):
        session, redis_answers = Session((), (), 0), False
        warnings.append("session_unavailable")
    history = session_state(session.history, session.seen, state.settings.shown_length)
    if request.history is not None:
        history = tuple((past.item_id, past.reward) for past in request.history)
    seen = frozenset(session.seen).union(item for item, _ in history)

    live, catalogue = state.watch.current, state.watch.catalogue
    chosen = slates.candidates(catalogue, request, seen)
    if live is None:
        popular = await _popular(state) if redis_answers else []
        slate = slates.fall_back(catalogue, chosen, popular, request.k)
    else:
        with telemetry.span("draw", version=live.version, k=request.k):
            slate = slates.draw(
                live,
                catalogue,
                chosen,
                history,
                user=user,
                arm=arm_of(state, user),
                k=request.k,
                rng=state.rng,
                shadow_rng=state.shadow_rng,
            )
    if slate.impression is not None:
        state.metrics.entropy.set(slate.impression.entropy)
        state.metrics.mix_weight.set(slate.impression.weight)
        if state.lag.too_far or not (redis_answers and await _logged(slate.impression, state)):
            warnings.append("impression_not_logged")
    state.metrics.impressions.labels(slate.arm).inc()
    return RecommendResponse(
        recommendation_id=slate.recommendation_id,
        policy_version=slate.policy_version,
        arm=slate.arm,
        items=slate.items,
        warnings=[*warnings, *slate.warnings],
    )


async def _logged(impression: Impression, state: State) -> bool:
    try:
        with telemetry.span("log"):
            await state.log.append_impression(impression)
    except (RedisError, OSError):
        return False
    return True


async def _popular(state: State) -> list[str]:
    try:
        ids = await state.quick.zrevrange(state.keys.popularity, 0, 999)
    except (RedisError, OSError):
        return []
    return [item.decode() for item in ids]
