"""Synthetic users against the running service: each visit is a new user with a hidden taste.

Closed loop: `concurrency` users at a time, the next comes when one leaves. Open loop: users arrive by a Poisson process
that was drawn in advance and does not wait for the service. Every latency counts from when the request was meant to
start, not from when it could, so that waiting in line is part of it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from service.client.calls import NO_CONNECTION
from service.contract.schemas import FeedbackEvent, RecommendRequest, RecommendResponse
from simulator.errors import SimulatorError
from simulator.load.client import ServiceClient, ServiceError
from simulator.world.environment import SessionBatch, World

Outcome = Literal["bored", "finished", "failed", "cut"]  # bored: left by the rules before the last turn
_GRACE_S = 5.0  # for running sessions to end by themselves once no new ones start


@dataclass(frozen=True)
class LoadConfig:
    """Amount and duration of load; at least one of `sessions` and `max_seconds` bounds it."""

    sessions: int | None = None
    max_seconds: float | None = None
    concurrency: int = 16  # users at a time (closed loop), connections (both)
    rate: float | None = None  # new sessions a second; None: closed loop
    think_s: float | None = None  # mean, exponential, before a user's next request; None: 0 closed loop, 1 open loop
    seed: int = 0

    @property
    def mean_think_s(self) -> float:
        """Mean think time that applies."""
        return self.think_s if self.think_s is not None else 1.0 if self.rate is not None else 0.0


@dataclass
class SessionRecord:
    """One visit, filled in while it lasts; the lists have an entry a turn (`feedback_ms`: a turn with feedback)."""

    n: int  # in the order of starting
    user: int  # index of the true user
    start_s: float  # when the visit was meant to start, since the run's start
    arm: str = ""
    outcome: Outcome = "cut"
    versions: list[int] = field(default_factory=list)
    shown: list[list[int]] = field(default_factory=list)  # item indices by slot, -1: not in the data set
    rewards: list[int] = field(default_factory=list)  # positive responses
    recommend_ms: list[float] = field(default_factory=list)
    feedback_ms: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # the service's, and errors by status

    @property
    def reward(self) -> int:
        """Positive responses in the whole session."""
        return sum(self.rewards)

    @property
    def complete(self) -> bool:
        """Did the user leave by the rules? Only then the reward says something about the policy."""
        return self.outcome in ("bored", "finished")


class Load:
    """One run of synthetic users; `records` grows while it lasts, in the order of starting."""

    def __init__(
        self,
        world: World,
        item_ids: tuple[str, ...],
        client: ServiceClient,
        config: LoadConfig,
        on_end: Callable[[SessionRecord], None] = lambda _: None,
    ) -> None:
        """`item_ids` name the items of the world, in its order. `on_end` sees every record when its session is over."""
        assert len(item_ids) == world.n_items
        assert config.sessions is not None or config.max_seconds is not None
        self.records: list[SessionRecord] = []
        self.seconds = 0.0  # the run's length
        self._world, self._client, self._config, self._on_end = world, client, config, on_end
        self._item_ids = item_ids
        self._index = {item_id: n for n, item_id in enumerate(item_ids)}
        self._began = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Send users until the bound is reached or `stop` is set, then let those inside finish, but not for long.

        Raises:
            SimulatorError: the service is not there, does not know our key, has met this seed's users before, or shows
                none of our items.
        """
        await check_service(self._client, self._config.seed)
        clock = asyncio.get_running_loop().time
        self._began = clock()
        send = self._closed if self._config.rate is None else self._open
        sending = asyncio.create_task(send(stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait(
                (sending, stopping), timeout=self._config.max_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            stop.set()
            await asyncio.wait((sending,), timeout=_GRACE_S)
        finally:
            self.seconds = clock() - self._began
            sending.cancel()
            stopping.cancel()
            await asyncio.wait((sending, stopping))
        if not sending.cancelled():
            _raise_first(sending)

    def _numbers(self, stop: asyncio.Event) -> Iterator[int]:
        """The next session's number, until there shall be no next one."""
        return itertools.takewhile(
            lambda n: not stop.is_set() and (self._config.sessions is None or n < self._config.sessions),
            itertools.count(),
        )

    async def _closed(self, stop: asyncio.Event) -> None:
        numbers = self._numbers(stop)
        clock = asyncio.get_running_loop().time

        async def one_after_the_other() -> None:
            for n in numbers:
                await self._visit(n, clock())

        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.concurrency):
                group.create_task(one_after_the_other())

    async def _open(self, stop: asyncio.Event) -> None:
        assert self._config.rate is not None
        rng = np.random.default_rng([self._config.seed, 0])
        due = self._began
        async with asyncio.TaskGroup() as group:
            for n in self._numbers(stop):
                due += float(rng.exponential(1.0 / self._config.rate))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await stop.wait()
                        break
                group.create_task(self._visit(n, due))

    async def _visit(self, n: int, due: float) -> None:
        """One session. Its user and luck depend on seed and number only, not on what else is running."""
        rng = np.random.default_rng([self._config.seed, 1, n])
        batch = SessionBatch(self._world, rng)
        batch.reset(rng.integers(self._world.n_users, size=1), first=n)
        record = SessionRecord(n, int(batch.users[0]), due - self._began)
        self.records.append(record)
        clock = asyncio.get_running_loop().time
        try:
            while not batch.done[0]:
                await self._turn(batch, record, due)
                due = clock()
                if self._config.mean_think_s > 0 and not batch.done[0]:
                    due += float(rng.exponential(self._config.mean_think_s))
                    await asyncio.sleep(due - clock())
            record.outcome = "bored" if batch.left[0] else "finished"
        except ServiceError as error:
            record.outcome = "failed"
            record.warnings.append(error.status)
        finally:
            self._on_end(record)

    async def _turn(self, batch: SessionBatch, record: SessionRecord, due: float) -> None:
        """Ask for a slate, respond to it, tell the service of the positive responses; silence is silence."""
        clock, k = asyncio.get_running_loop().time, self._world.config.slate_size
        user_id = _user_id(self._config.seed, record.n)
        try:
            slate = await self._client.recommend(RecommendRequest(user_id=user_id, k=k))
        finally:
            # A call that failed took its time as well; leaving it out would flatter the service.
            record.recommend_ms.append((clock() - due) * 1e3)
        shown = self._indices(slate)
        rewards, _ = batch.show(np.array([shown + [-1] * (k - len(shown))]))
        record.arm = slate.arm
        record.versions.append(slate.policy_version)
        record.shown.append(shown)
        record.rewards.append(int(rewards.sum()))
        record.warnings.extend(slate.warnings)
        turn = len(record.shown)
        events = [
            FeedbackEvent(
                event_id=f"{user_id}-{turn}-{slot}",
                user_id=user_id,
                item_id=self._item_ids[shown[slot]],
                recommendation_id=slate.recommendation_id,
                type="click",
            )
            for slot in np.flatnonzero(rewards[0])
        ]
        if events:
            due = clock()
            try:
                answer = await self._client.feedback(events)
            finally:
                record.feedback_ms.append((clock() - due) * 1e3)
            record.warnings.extend(f"rejected: {rejection.code}" for rejection in answer.rejected)

    def _indices(self, slate: RecommendResponse) -> list[int]:
        shown = [self._index.get(item.item_id, -1) for item in slate.items[: self._world.config.slate_size]]
        if shown and max(shown) < 0:
            unknown = slate.items[0].item_id
            raise SimulatorError(
                f"the service shows {unknown!r}, which --dataset does not have; name the data set of its snapshot"
            )
        return shown


async def check_service(client: ServiceClient, seed: int) -> None:
    """Is there any use in sending users?

    Raises:
        SimulatorError: the service is not there, does not know our key, or has met this seed's users before.
    """
    ready = await client.status_of("/readyz")
    if ready == NO_CONNECTION:
        raise SimulatorError("no service answers at --url; start one with `python -m service dev --snapshot DIR`")
    met = await client.status_of(f"/users/{_user_id(seed, 0)}")
    if met == "401":
        raise SimulatorError("this service asks for another API key: --api-key-file or IALP_API_KEY")
    # With 403 the key is for serving and feedback alone: whether the users are new is then not known.
    if met == "200":
        raise SimulatorError(f"this service has met the users of --seed {seed} before; take another seed")


def _user_id(seed: int, n: int) -> str:
    return f"sim-{seed}-{n}"


def _raise_first(task: asyncio.Task[None]) -> None:
    """Raise the error that ended the task early, out of its group: several sessions may fail at once."""
    error: BaseException | None = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
