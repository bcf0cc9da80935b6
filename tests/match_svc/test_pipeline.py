"""Reading ahead, answering in order."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from match_svc.pipeline import in_order


async def numbers(count: int, error: Exception | None = None) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number
    if error is not None:
        raise error


async def collect(answers: AsyncGenerator[int, None], into: list[int]) -> None:
    async for answer in answers:
        into.append(answer)


async def test_the_slow_do_not_lose_their_place() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.02 if number % 3 == 0 else 0)
        return number

    assert [number async for number in in_order(numbers(20), work)] == list(range(20))


async def test_it_works_ahead_but_not_further_than_told() -> None:
    running, most = 0, 0

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    async for _ in in_order(numbers(20), work, ahead=3):
        pass

    assert most == 3


async def test_what_was_taken_is_answered_before_the_error_comes_out() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    answered: list[int] = []
    with pytest.raises(RuntimeError, match="the source broke"):
        await collect(in_order(numbers(3, RuntimeError("the source broke")), work), answered)

    assert answered == [0, 1, 2]


async def test_an_error_of_the_work_ends_it_and_closes_the_source() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            for number in range(1_000_000):
                yield number
        finally:
            closed.set()

    async def work(number: int) -> int:
        if number == 2:
            raise ValueError("no")
        return number

    answered: list[int] = []
    with pytest.raises(ValueError, match="no"):
        await collect(in_order(endless(), work), answered)

    assert answered == [0, 1]
    assert closed.is_set()


async def test_leaving_early_ends_the_work_and_closes_the_source() -> None:
    closed, begun, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def waiting() -> AsyncGenerator[int, None]:
        try:
            yield 0
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def work(number: int) -> int:
        if number == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return number

    answers = in_order(waiting(), work)
    assert await anext(answers) == 0
    await begun.wait()
    await answers.aclose()

    assert closed.is_set()
    assert cancelled.is_set()
