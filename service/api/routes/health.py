"""GET /healthz, /readyz, /metrics"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from service.api.guard import needs
from service.api.state import Shared
from service.contract.schemas import Health

router = APIRouter(tags=["health"])
guarded = APIRouter(tags=["health"], route_class=needs("metrics", "admin", without_redis=True))


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health}})
async def readyz(request: Request, response: Response, state: Shared) -> Health:
    """A policy and the API keys are loaded, Redis answers, and nobody asked the process to stop."""
    reasons = ["stopping"] if request.app.state.stopping else []
    try:
        await state.redis.ping()
    except (RedisError, OSError):
        reasons.append("redis_unavailable")
    if state.key_ring is not None and not state.key_ring.loaded:
        reasons.append("no_keys")
    live = state.watch.current
    if live is None:
        reasons.append("no_policy")
    if reasons:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    status = "unavailable" if reasons else "ok"
    return Health(status=status, policy_version=live.version if live else None, reasons=reasons)


@guarded.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(state: Shared) -> Response:
    """Prometheus text format."""
    report, pending = None, 0
    try:
        report = await state.worker_report()
        cursor = report.cursor if report else "0-0"
        newer = await state.redis.xrange(state.keys.events, min=f"({cursor}", count=10_000)
        pending = len(newer)
    except (RedisError, OSError):
        pass
    live = state.watch.current
    state.metrics.frozen.set(live is not None and live.live.mode == "frozen")
    state.metrics.redis_up.set(not state.circuit.is_open)
    created_at = live.snapshot.manifest.created_at if live else 0.0
    body = state.metrics.exposition(report, live.version if live else 0, created_at, pending, state.lag.seconds)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
