"""Answering a stream in order while reading ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    requests: AsyncGenerator[T, None], work: Callable[[T], Awaitable[R]], *, ahead: int = 4
) -> AsyncGenerator[R, None]:
    """`work(request)` of each request, in their order, with up to `ahead` of them worked on at once.

    When `requests` raises, what was taken before is still answered, then the error comes out. An error of `work` ends
    it at once. `requests` is closed in any case.
    """
    free = asyncio.Semaphore(ahead)
    answers: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()

    async def read() -> None:
        try:
            await free.acquire()
            async for request in requests:
                answers.put_nowait(asyncio.ensure_future(work(request)))
                await free.acquire()
        finally:
            await requests.aclose()
            answers.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (answer := await answers.get()) is not None:
            yield await answer
            free.release()
        await reader
    finally:
        left: list[asyncio.Future[Any]] = [reader, *(answer for answer in _drained(answers) if answer is not None)]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _drained(queue: asyncio.Queue[T]) -> list[T]:
    return [queue.get_nowait() for _ in range(queue.qsize())]
