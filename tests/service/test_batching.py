"""Calls of one turn of the loop become one, and none of them suffers from another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.serving.batching import Batched


class Doubling:
    """Doubles numbers; keeps what it was asked for together, and may be held up or fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.error: BaseException | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return [2 * number for number in numbers]


async def test_calls_of_one_turn_are_one_and_everyone_gets_their_own_answer() -> None:
    process = Doubling()
    double: Batched[int, int] = Batched(process)

    async def ask(number: int) -> int:
        return await double(number)

    assert await asyncio.gather(*map(ask, range(5))) == [0, 2, 4, 6, 8]
    assert await ask(7) == 14
    assert process.batches == [[0, 1, 2, 3, 4], [7]]


async def test_so_many_calls_that_one_would_be_slow_are_several() -> None:
    process = Doubling()
    double: Batched[int, int] = Batched(process)
    assert await asyncio.gather(*map(double, range(150))) == [2 * n for n in range(150)]
    assert [len(batch) for batch in process.batches] == [64, 64, 22]


async def test_a_failure_reaches_all_of_them_and_the_next_call_is_new() -> None:
    process = Doubling()
    double: Batched[int, int] = Batched(process)
    process.error = ConnectionError("away")
    failed = await asyncio.gather(double(1), double(2), return_exceptions=True)
    assert [type(error) for error in failed] == [ConnectionError, ConnectionError]
    process.error = None
    assert await double(3) == 6


async def test_who_gives_up_takes_nobody_along() -> None:
    process = Doubling()
    double: Batched[int, int] = Batched(process)
    process.may_go_on.clear()
    first, second = double(1), double(2)
    while not process.batches:
        await asyncio.sleep(0)
    first.cancel()
    process.may_go_on.set()
    assert await second == 4
    with pytest.raises(asyncio.CancelledError):
        await first
    process.error, gone = ConnectionError("away"), double(3)
    gone.cancel()
    with pytest.raises(ConnectionError):
        await double(4)


async def test_later_calls_do_not_wait_for_earlier_ones() -> None:
    process = Doubling()
    double: Batched[int, int] = Batched(process)
    process.may_go_on.clear()
    held_up = double(1)
    while not process.batches:
        await asyncio.sleep(0)
    process.may_go_on = asyncio.Event()
    process.may_go_on.set()
    assert await double(2) == 4
    assert not held_up.done()
    held_up.cancel()
