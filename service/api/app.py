"""The FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import redis.asyncio as aioredis
from fastapi import FastAPI
from redis.exceptions import RedisError

from service.api import errors
from service.api.application import Application
from service.api.edge import Edge
from service.api.fast_path import FastPath
from service.api.metrics import Metrics
from service.api.openapi import problems
from service.api.routes import (
    dashboard,
    dead_letters,
    evaluation,
    explain,
    feedback,
    health,
    imports,
    items,
    lists,
    personalizer,
    placements,
    policies,
    preview,
    recommend,
    users,
)
from service.api.routes import (
    log as log_routes,
)
from service.api.rules import Placements
from service.api.state import Encoder, State
from service.policy.snapshot import SnapshotError
from service.runtime import telemetry
from service.runtime.threads import one_thread
from service.serving.live import PolicyWatch
from service.serving.recommender import Recommender
from service.settings import Settings
from service.store.api_keys import KeyRing
from service.store.bootstrap import bootstrap
from service.store.circuit import Circuit
from service.store.connect import connect
from service.store.event_log import EventLog
from service.store.keys import Keys
from service.store.lag import Lag
from service.store.ranked import RankedStore
from service.store.rate_limit import RateLimiter
from service.store.registry import RegistryError
from service.store.sessions import SessionStore

log = logging.getLogger(__name__)

_DESCRIPTION = "Recommendations from an LLM-distilled policy that keeps learning from feedback (iALP / A-iALP)."


async def _keep_up(state: State) -> None:
    """Watch the live pointer, bring in the first policy, then follow the registry; for ever."""
    await asyncio.gather(state.watch.watch(), _follow(state))


async def _follow(state: State) -> None:
    while True:
        try:
            await bootstrap(state.redis, state.keys, state.settings)
            break
        except (RedisError, OSError) as error:
            log.warning("waiting for Redis (%s)", type(error).__name__)
            await asyncio.sleep(state.settings.refresh_interval_s)
        except (SnapshotError, RegistryError) as error:
            state.watch.problem = str(error)
            log.error("starting without a policy: %s", error)
            break
    await state.watch.follow()


def _state(
    settings: Settings,
    metrics: Metrics,
    circuit: Circuit,
    redis: aioredis.Redis,
    quick: aioredis.Redis,
    probe: aioredis.Redis,
) -> State:
    """Make what the routes share, of clients for most, for those in a hurry, and for the watch."""
    keys = Keys(settings.key_prefix)
    events, lag = EventLog(redis, quick, keys, settings), Lag(redis, keys, settings)
    watch = PolicyWatch(redis, probe, circuit, keys, settings)
    return State(
        settings=settings,
        keys=keys,
        redis=redis,
        circuit=circuit,
        log=events,
        ranked=RankedStore(redis, quick, keys, settings),
        sessions=SessionStore(redis, keys, settings),
        lag=lag,
        watch=watch,
        recommender=Recommender(quick, keys, settings, watch, events, lag),
        encoder=Encoder(),
        metrics=metrics,
        key_ring=KeyRing(redis, keys, settings.refresh_interval_s) if settings.auth == "on" else None,
        limiter=RateLimiter(quick, keys),
        placements=Placements(redis, keys, settings.refresh_interval_s),
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; `settings` default to the environment."""
    settings = settings or Settings()
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        one_thread()
        circuit = Circuit()
        redis, probe = connect(settings, circuit), connect(settings)
        quick = connect(settings, circuit, settings.recommend_redis_timeout_s)
        state = app.state.ialp = _state(settings, metrics, circuit, redis, quick, probe)
        watched = (_keep_up(state), state.lag.follow(), state.placements.watch())
        tasks = {asyncio.create_task(one) for one in watched}
        if state.key_ring is not None:
            tasks.add(asyncio.create_task(state.key_ring.watch()))
        else:
            log.warning("IALP_AUTH=off: whoever reaches %s:%d may do everything", settings.host, settings.port)
        if "*" in settings.cors_origins:
            log.warning("IALP_CORS_ORIGINS=*: pages of any site may send requests with a key that they have got")
        try:
            yield
        finally:
            # redis-py can take a cancellation for a timeout of its own and go on, so one may not be enough.
            while tasks:
                for task in tasks:
                    task.cancel()
                _, tasks = await asyncio.wait(tasks, timeout=0.1)
            for client in (redis, quick, probe):
                await client.aclose()

    app = Application(
        settings,
        title="ialp",
        description=_DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        responses=problems(400, 408, 413, 415, 422, 431, 503),
    )
    app.state.stopping = False
    errors.install(app)
    operating = (policies, evaluation, explain, imports, log_routes, dead_letters)
    for module in (recommend, preview, feedback, items, lists, users, placements, *operating):
        app.include_router(module.router)
        app.include_router(module.router, prefix="/v1", include_in_schema=False)
    app.include_router(personalizer.router)
    app.include_router(health.router)
    app.include_router(health.guarded)
    app.include_router(dashboard.guarded)
    app.include_router(dashboard.router)
    app.add_middleware(FastPath)
    app.add_middleware(
        Edge, metrics=metrics, max_body_bytes=settings.max_body_bytes, body_timeout_s=settings.body_timeout_s
    )
    telemetry.instrument(app)
    return app
