"""What the routes share, typed; made once per process by the lifespan of `main`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import redis.asyncio as aioredis
from fastapi import Depends, Request

from service.auth import KeyRing
from service.circuit import Circuit
from service.coalesce import Coalesced
from service.events import Impression
from service.keys import Keys
from service.lag import Lag
from service.live import PolicyWatch
from service.metrics import Metrics, WorkerReport, decode_report
from service.policy.adaptive import Arm
from service.policy.text import Embeddings, TextEncoder, load_text_encoder
from service.ranked import RankedStore
from service.rate_limit import RateLimiter
from service.sessions import Session, SessionStore, share_of
from service.settings import Settings
from service.slates import Drawn, Wish
from service.streams import EventLog


class Encoder:
    """The text encoder of the policy in service, loaded once, used off the event loop."""

    def __init__(self) -> None:
        self._loaded: dict[str, TextEncoder] = {}
        self._lock = asyncio.Lock()

    async def encode(self, name: str, texts: list[str]) -> Embeddings:
        """Embed texts with the encoder `name`, [n, TEXT_DIM]."""
        async with self._lock:
            if name not in self._loaded:
                self._loaded[name] = await asyncio.to_thread(load_text_encoder, name)
            return await asyncio.to_thread(self._loaded[name].encode, texts)


@dataclass
class State:
    """One API process."""

    settings: Settings
    keys: Keys
    redis: aioredis.Redis
    circuit: Circuit
    quick: aioredis.Redis  # the same Redis for /recommend: gives up early
    log: EventLog
    ranked: RankedStore
    lag: Lag
    watch: PolicyWatch
    encoder: Encoder
    metrics: Metrics
    sessions: SessionStore
    visitors: SessionStore  # of the client that gives up early
    sessions_of: Coalesced[str, Session]  # by `quick`, of users by their key
    drawn: Coalesced[Wish, Drawn]
    log_impression: Coalesced[tuple[Impression, Sequence[int]], None]
    rng: np.random.Generator
    shadow_rng: np.random.Generator
    key_ring: KeyRing | None  # None: everybody may do everything
    limiter: RateLimiter

    def arm_of(self, user: str) -> Arm:
        """The arm a user belongs to: always the same one."""
        return Arm.CONTROL if share_of(user, "arm") < self.settings.control_share else Arm.ADAPTIVE

    async def worker_report(self) -> WorkerReport | None:
        """What the worker last reported, None if it never ran or what it wrote cannot be read."""
        data = await self.redis.get(self.keys.worker)
        return decode_report(data) if data else None


def state_of(request: Request) -> State:
    """The state of the process that answers."""
    state = request.app.state.ialp
    assert isinstance(state, State)
    return state


async def _shared(request: Request) -> State:
    """A coroutine, since FastAPI hands plain functions to a thread."""
    return state_of(request)


Shared = Annotated[State, Depends(_shared)]
