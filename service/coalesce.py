"""Calls of one turn of the event loop, made as one: requests that come together ask Redis and the policy together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_MOST = 64  # calls made as one: what comes after them must not wait long


class Coalesced(Generic[Asked, Answer]):
    """`process` for one, as a call that waits for those of the same turn and is processed with them.

    What `process` raises, every one of them gets. Nobody's cancellation reaches the others.
    """

    def __init__(self, process: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> None:
        self._process = process
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._running: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def __call__(self, asked: Asked) -> asyncio.Future[Answer]:
        """What will be the answer to `asked`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._start)
        self._waiting.append((asked, future))
        return future

    def _start(self) -> None:
        calls, self._waiting = self._waiting, []
        for start in range(0, len(calls), _MOST):
            task = asyncio.get_running_loop().create_task(self._run(calls[start : start + _MOST]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, calls: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._process([asked for asked, _ in calls])
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
