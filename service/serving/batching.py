"""Batch calls of one turn of the event loop: requests that come together ask Redis and the policy together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_EACH_S = 0.0025  # of waiting for each call of the last start
_MOST = 64  # calls made as one: what comes after them must not wait long


class Batched(Generic[Request, Answer]):
    """Batch calls made in the same turn of the event loop: each waits for its own answer of one `process`.

    What `process` raises, every one of them gets. Nobody's cancellation reaches the others. With `longest_wait_s`,
    calls wait until so much time is over since the last start as it had calls (`_EACH_S`), but no longer than that:
    where they are rare nobody waits, and where they are many they come together.
    """

    def __init__(
        self, process: Callable[[Sequence[Request]], Awaitable[Sequence[Answer]]], longest_wait_s: float = 0.0
    ) -> None:
        self._process, self._longest_wait_s = process, longest_wait_s
        self._next_start = 0.0  # by the loop's clock
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._running: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def __call__(self, request: Request) -> asyncio.Future[Answer]:
        """Queue a request; the future gets its answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            if loop.time() < self._next_start:
                loop.call_at(self._next_start, self._start)
            else:
                loop.call_soon(self._start)
        self._waiting.append((request, future))
        return future

    def _start(self) -> None:
        calls, self._waiting = self._waiting, []
        wait_s = min(self._longest_wait_s, _EACH_S * len(calls))
        self._next_start = asyncio.get_running_loop().time() + wait_s
        for start in range(0, len(calls), _MOST):
            task = asyncio.get_running_loop().create_task(self._run(calls[start : start + _MOST]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, calls: list[tuple[Request, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._process([request for request, _ in calls])
        except BaseException as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), answer in zip(calls, answers, strict=True):
            if not future.done():
                future.set_result(answer)
