"""Users on the loopback: recommend -> click -> feedback, retried with the same event_id until it is acknowledged."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

_TIMEOUT_S = 5.0
_KEPT_S = 2.0  # an idle connection: shorter than the server keeps it, or a request may meet its end
_SETTLE_S = 60.0  # for feedback that is still to be acknowledged when the load ends
_VISIT = 5  # slates before the next user comes: there are only so many items to show
_WAITING = 20  # clicks that wait for a 202, of all users: more of them would keep this process, not the service, busy
_AGAIN_S = 0.1  # after an error that names no Retry-After


@dataclass(frozen=True)
class Attempt:
    """One request as its client saw it."""

    route: str
    started: float  # monotonic, seconds
    latency_s: float
    status: int | None  # None: no answer
    outcome: str  # status with the problem's code, or the exception's name
    retry_after: bool = False
    warnings: tuple[str, ...] = ()
    policy_version: int | None = None

    @property
    def ended(self) -> float:
        """Monotonic, seconds."""
        return self.started + self.latency_s


@dataclass
class Seen:
    """Everything that the clients saw."""

    attempts: list[Attempt] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)  # event ids
    acknowledged: list[str] = field(default_factory=list)  # event ids that got their 202
    duplicates: int = 0  # of these, how many 202 said "duplicate"
    logged_slates: list[str] = field(default_factory=list)  # recommendation ids that were answered as logged


class Load:
    """`users` clients from `start` to `stop`, in a thread of their own; `seen` grows meanwhile."""

    def __init__(self, urls: Sequence[str], seed: int, users: int = 6, think_s: float = 0.03) -> None:
        self.seen = Seen()
        self._urls, self._seed, self._users, self._think_s = urls, seed, users, think_s
        self._jitter = np.random.default_rng([seed, users])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        """Send the first requests."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no more visits and wait until all feedback is acknowledged, or until a minute is over."""
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(keepalive_expiry=_KEPT_S)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits) as client, asyncio.TaskGroup() as group:
            for number in range(self._users):
                group.create_task(self._user(client, number, group))

    async def _user(self, client: httpx.AsyncClient, number: int, group: asyncio.TaskGroup) -> None:
        rng = np.random.default_rng([self._seed, number])
        turn = 0
        while not self._stopping.is_set():
            user = f"{self._seed}-{number}-{turn // _VISIT}"
            slate = await self._send(client, "/recommend", {"user_id": user, "k": 3}, turn)
            if slate is not None:
                # Beside the next visit: feedback that nobody takes must not keep people from asking for slates.
                group.create_task(self._respond(client, user, slate, f"{user}-{turn}"))
            await asyncio.sleep(rng.exponential(self._think_s))
            turn += 1

    async def _respond(self, client: httpx.AsyncClient, user: str, slate: dict[str, Any], event_id: str) -> None:
        if not {"impression_not_logged", "no_policy"} & set(slate["warnings"]):
            self.seen.logged_slates.append(slate["recommendation_id"])
        comedies = [i["item_id"] for i in slate["items"] if int(i["item_id"].removeprefix("film-")) % 3 == 1]
        if not comedies or len(self.seen.sent) - len(self.seen.acknowledged) >= _WAITING:
            return
        event = {"event_id": event_id, "user_id": user, "item_id": comedies[0], "type": "click"}
        event["recommendation_id"] = slate["recommendation_id"]
        self.seen.sent.add(event_id)
        given_up_at = None
        for attempt in range(1_000_000):
            answer = await self._send(client, "/feedback", event, attempt)
            if answer is not None:
                self.seen.acknowledged.append(event_id)
                self.seen.duplicates += answer["duplicates"]
                return
            if self._stopping.is_set():
                given_up_at = given_up_at or time.monotonic() + _SETTLE_S
                if time.monotonic() > given_up_at:
                    return

    async def _send(
        self, client: httpx.AsyncClient, route: str, body: dict[str, Any], attempt: int
    ) -> dict[str, Any] | None:
        """The answer, None if it is none of success; then it has waited as long as was asked for."""
        url = self._urls[attempt % len(self._urls)]
        started = time.monotonic()
        try:
            answer = await client.post(url + route, json=body)
        except httpx.HTTPError as error:
            latency_s = time.monotonic() - started
            self.seen.attempts.append(Attempt(route, started, latency_s, None, type(error).__name__))
            await asyncio.sleep(_AGAIN_S)
            return None
        latency_s = time.monotonic() - started
        document: dict[str, Any] = answer.json()
        retry_after = answer.headers.get("retry-after")
        code = f" {document['code']}" if answer.status_code >= 400 else ""
        self.seen.attempts.append(
            Attempt(
                route=route,
                started=started,
                latency_s=latency_s,
                status=answer.status_code,
                outcome=f"{answer.status_code}{code}",
                retry_after=retry_after is not None,
                warnings=tuple(document.get("warnings", ())),
                policy_version=document.get("policy_version"),
            )
        )
        if answer.status_code < 400:
            return document
        # As good clients do: all who were refused at once do not come back at once.
        await asyncio.sleep(float(retry_after or _AGAIN_S) * self._jitter.uniform(1.0, 2.0))
        return None
