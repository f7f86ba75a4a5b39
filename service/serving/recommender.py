"""From a user's session to a slate that is logged: what every route that shows something has in common.

Requests of one turn of the event loop are answered together (`batching`): one call asks Redis for their sessions, one
asks the policy for its probabilities, and one more logs what they are shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import redis.asyncio as aioredis
from redis.exceptions import RedisError

from service.conditions import Condition
from service.policy.types import session_state
from service.policy.variants import Arm
from service.runtime import telemetry
from service.serving import slates
from service.serving.batching import Batched
from service.serving.fallback import fall_back
from service.serving.live import PolicyWatch
from service.serving.loader import LivePolicy
from service.serving.rules import Rules
from service.serving.slates import Candidates, Repeat, Restrictions, SlateWarning, find_candidates
from service.settings import Settings
from service.store.catalogue import Catalogue
from service.store.event_log import EventLog
from service.store.keys import Keys
from service.store.lag import Lag
from service.store.sessions import Session, SessionStore, share_of

# For a session. Requests that wait this long stay together, and each costs a fraction of what it costs alone.
_LONGEST_WAIT_S = 0.006
_DAY_S = 86_400


class SlateRequest(NamedTuple):
    """Request for a slate: how many items, and which ones may be shown."""

    k: int
    candidates: Sequence[str] | None = None  # the only items that may be shown
    excluded: Sequence[str] = ()
    categories: Sequence[str] | None = None
    condition: Condition | None = None
    rules: Rules | None = None
    history: tuple[tuple[str, float], ...] | None = None  # (item, reward) instead of the stored one
    repeat: Repeat | None = None
    repeat_after_days: float | None = None  # what was seen longer ago may be shown again
    excluded_types: Sequence[str] = ()  # feedback types; what has any of these is not shown
    placement: str | None = None

    def restrictions(self, repeat: Repeat) -> Restrictions:
        """Return its restrictions; `repeat` is the default."""
        return Restrictions(
            self.k, self.candidates, self.excluded, self.categories, self.condition, self.repeat or repeat, self.rules
        )


class Recommender:
    """Draw slates from the version in service, and log them."""

    def __init__(
        self,
        quick: aioredis.Redis,
        keys: Keys,
        settings: Settings,
        watch: PolicyWatch,
        log: EventLog,
        lag: Lag,
    ) -> None:
        """`quick`: a client that gives up early, since a user waits."""
        self._quick, self._keys, self._settings = quick, keys, settings
        self._watch, self._lag = watch, lag
        self._sessions = SessionStore(quick, keys, settings)
        self._load = Batched(self._sessions.load, _LONGEST_WAIT_S)
        self._draw = Batched(_draw)
        self._append = Batched(log.append_impressions)
        self._rng = np.random.default_rng(settings.seed)
        self._shadow_rng = np.random.default_rng(settings.seed)

    def arm_of(self, user: str) -> Arm:
        """Return the arm that a user belongs to: always the same one."""
        return Arm.CONTROL if share_of(user, "arm") < self._settings.control_share else Arm.ADAPTIVE

    async def recommend(self, user: str, visitor: str | None, request: SlateRequest) -> slates.Slate:
        """Draw a slate and log it. Without Redis it comes from memory, and its `warnings` say so.

        `visitor`: the session that the user had before they logged in; it becomes part of theirs.
        """
        loaded = await self.session(user, visitor)
        session, redis_answers = loaded or Session((), (), 0), loaded is not None
        live, catalogue, settings = self._watch.current, self._watch.catalogue, self._settings
        stored, seen = session.named(catalogue.ids)
        history = session_state(stored, seen, settings.shown_length)
        now = time.time()
        hidden = recently_seen(session, seen, catalogue, request.repeat_after_days, now)
        if request.history is not None:
            history = request.history
            hidden = [*hidden, *(item for item, _ in history)]
        if request.excluded_types:
            done = done_before(session, catalogue, request.excluded_types)
            request = request._replace(excluded=[*request.excluded, *done])
        chosen = find_candidates(catalogue, hidden, request.restrictions(settings.repeat), now)
        if live is None:
            slate = fall_back(catalogue, chosen, await self._popular() if redis_answers else [], request.k)
        else:
            slate, _ = await self.draw(user, live, catalogue, chosen, history, request.k, request.placement)
        warnings: list[SlateWarning] = [] if redis_answers else ["session_unavailable"]
        warnings += ["unknown_feedback_type"] if not settings.rewards.keys() >= set(request.excluded_types) else []
        if slate.impression is not None and (self._lag.too_far or not (redis_answers and await self._log(slate))):
            warnings.append("impression_not_logged")
        return replace(slate, warnings=[*warnings, *slate.warnings]) if warnings else slate

    async def session(self, user: str, visitor: str | None = None) -> Session | None:
        """Load a user's session, which a `visitor`'s becomes part of, and bring the catalogue up to date; None if Redis
        does not answer.

        After one failure it is not to be asked again: a request waits for one time-out at most.
        """
        try:
            with telemetry.span("session"):
                if visitor is not None:
                    await self._sessions.join(visitor, user)
                session = await self._load(user)
            await self._watch.sync_catalogue(session.catalogue_seq)
        except (RedisError, OSError):
            return None
        return session

    async def draw(
        self,
        user: str,
        live: LivePolicy,
        catalogue: Catalogue,
        chosen: Candidates,
        history: slates.History,
        k: int,
        placement: str | None = None,
    ) -> tuple[slates.Slate, slates.Drawn]:
        """Draw a slate of `k` items for a user, together with what comes in this turn of the event loop."""
        with telemetry.span("draw", version=live.version, k=k):
            arm = self.arm_of(user)
            draws = slates.plan_draws(live, catalogue, chosen, history, arm, k, self._rng, self._shadow_rng)
            coming = [self._draw(one) for one in draws]  # all before the first is waited for
            drawn = [await slate for slate in coming]
            slate = slates.build_slate(
                live, catalogue, chosen, history, drawn, user=user, arm=arm, k=k, placement=placement
            )
            return slate, drawn[0]

    async def _log(self, slate: slates.Slate) -> bool:
        assert slate.impression is not None
        try:
            with telemetry.span("log"):
                await self._append((slate.impression, slate.places))
        except (RedisError, OSError):
            return False
        return True

    async def _popular(self) -> list[str]:
        try:
            ids = await self._quick.zrevrange(self._keys.popularity, 0, 999)
        except (RedisError, OSError):
            return []
        return [item.decode() for item in ids]


def recently_seen(
    session: Session, seen: list[str], catalogue: Catalogue, after_days: float | None, now_s: float
) -> list[str]:
    """Those of the items `seen`, oldest first, that were so in the last days; all of them if None are given."""
    if after_days is None:
        return seen
    recent = set(session.names_of(session.seen_since(now_s - after_days * _DAY_S), catalogue.ids))
    return [item for item in seen if item in recent]


def done_before(session: Session, catalogue: Catalogue, types: Sequence[str]) -> list[str]:
    """Items to which a user has responded with feedback of any of the types."""
    by_type = session.by_type()
    return [item for name in types for item in session.names_of(by_type.get(name, ()), catalogue.ids)]


async def _draw(draws: Sequence[slates.Draw]) -> list[slates.Drawn]:
    return slates.draw_all(draws)
