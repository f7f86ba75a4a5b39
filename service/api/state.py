"""State that the routes share, typed; built once per process by the lifespan of the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import redis.asyncio as aioredis
from fastapi import Depends, Request

from service.api.errors import no_encoder
from service.api.metrics import Metrics
from service.api.rules import Placements
from service.policy.encoders import load_text_encoder
from service.policy.text import Embeddings, TextEncoder
from service.serving.live import PolicyWatch
from service.serving.recommender import Recommender
from service.settings import Settings
from service.store.api_keys import KeyRing
from service.store.circuit import Circuit
from service.store.event_log import EventLog
from service.store.keys import Keys
from service.store.lag import Lag
from service.store.ranked import RankedStore
from service.store.rate_limit import RateLimiter
from service.store.sessions import Session, SessionStore
from service.store.worker_report import WorkerReport, decode_report

log = logging.getLogger(__name__)


class Encoder:
    """The text encoder of the policy in service, loaded once, used off the event loop."""

    def __init__(self) -> None:
        self._loaded: dict[str, TextEncoder] = {}
        self._lock = asyncio.Lock()

    async def encode(self, name: str, texts: Sequence[str]) -> Embeddings:
        """Embed texts with the encoder `name`, [n, TEXT_DIM].

        Raises:
            Problem: 503, its package is not installed.
        """
        async with self._lock:
            encoder = await self._encoder(name)
            return await asyncio.to_thread(encoder.encode, texts)

    async def unknown(self, name: str, texts: Sequence[str]) -> list[float]:
        """Return the share of each text that the encoder `name` cannot read.

        Raises:
            Problem: 503, its package is not installed.
        """
        async with self._lock:
            encoder = await self._encoder(name)
            return await asyncio.to_thread(encoder.unknown, texts)

    async def _encoder(self, name: str) -> TextEncoder:
        if name not in self._loaded:
            try:
                self._loaded[name] = await asyncio.to_thread(load_text_encoder, name)
            except ModuleNotFoundError as error:
                log.error("%s", error)
                raise no_encoder(str(error)) from None
        return self._loaded[name]


class PastItem(Protocol):
    """An interaction that a request itself carries."""

    @property
    def item_id(self) -> str: ...

    @property
    def reward(self) -> float | None: ...


@dataclass
class State:
    """One API process."""

    settings: Settings
    keys: Keys
    redis: aioredis.Redis
    circuit: Circuit
    log: EventLog
    ranked: RankedStore
    lag: Lag
    watch: PolicyWatch
    encoder: Encoder
    metrics: Metrics
    sessions: SessionStore
    recommender: Recommender
    key_ring: KeyRing | None  # None: everybody may do everything
    limiter: RateLimiter
    placements: Placements

    def history_of(self, past: Sequence[PastItem]) -> tuple[tuple[str, float], ...]:
        """Return a request's own history as (item, reward), what has no reward being a full like."""
        full = self.settings.largest_reward
        return tuple([(one.item_id, full if one.reward is None else one.reward) for one in past])

    async def session(self, user: str) -> Session:
        """Load a user's session, and bring the catalogue up to date with it.

        Raises:
            RedisError: Redis does not answer.
        """
        session = (await self.sessions.load([user]))[0]
        await self.watch.sync_catalogue(session.catalogue_seq)
        return session

    async def worker_report(self) -> WorkerReport | None:
        """Read the worker's last report; None if it never ran or what it wrote cannot be read."""
        data = await self.redis.get(self.keys.worker)
        return decode_report(data) if data else None


def state_of(request: Request) -> State:
    """The state of the process that answers."""
    state = request.app.state.ialp
    assert isinstance(state, State)
    return state


async def _shared(request: Request) -> State:
    """Return the state; a coroutine, since FastAPI hands plain functions to a thread."""
    return state_of(request)


Shared = Annotated[State, Depends(_shared)]
