"""The servers that ours is compared with: `python subjects.py NAME PORT`, one process and one thread each."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from service.contract.schemas import RecommendedItem, RecommendRequest, RecommendResponse

K = 10


def bare() -> Any:
    """ASGI's hello: what uvicorn costs by itself."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    body = {"type": "http.response.body", "body": b"hi"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(start)
            await send(body)

    return app


def echo(before: Any = None) -> Any:
    """FastAPI with our request's and answer's schemas, and a slate that is always the same."""
    items = [
        RecommendedItem(item_id=f"item-{n}", slot=n, score=0.01, propensity=0.01, source="learned") for n in range(K)
    ]
    app = FastAPI()

    @app.post("/recommend")
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        warnings = [] if before is None else await before(request)
        return RecommendResponse(
            recommendation_id="0" * 32, policy_version=1, arm="adaptive", items=items, warnings=warnings
        )

    return app


def echo_redis() -> Any:
    """The same with one GET and one XADD, as redis-py is used everywhere."""
    import redis.asyncio as aioredis

    client = aioredis.from_url(os.environ["REDIS_URL"])

    async def ask(request: Any) -> list[str]:
        await client.get(f"bench:{request.user_id}")
        await client.xadd("bench:events", {"e": b"x" * 600}, maxlen=10_000, approximate=True)
        return []

    return echo(ask)


def vowpal_wabbit(n_actions: int) -> Any:
    """The same around a contextual bandit of `n_actions`: epsilon-greedy over shared and action features."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace("--cb_explore_adf --epsilon 0.1 -q UA --quiet")
    rng = np.random.default_rng(0)
    actions = [f"|A {' '.join(f'f{j}:{rng.normal():.3f}' for j in range(10))}" for _ in range(n_actions)]

    async def ask(request: Any) -> list[str]:
        user = " ".join(f"h{rng.integers(1000)}" for _ in range(20))
        workspace.predict([f"shared |U {user}", *actions])
        return []

    return echo(ask)


def main(name: str, port: int) -> None:
    """Serve until killed."""
    subjects: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "echo": echo,
        "echo_redis": echo_redis,
        "vw_10": lambda: vowpal_wabbit(10),
        "vw_100": lambda: vowpal_wabbit(100),
    }
    app = subjects[name]()
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
