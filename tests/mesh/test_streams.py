"""Streams that end when the server drains. Over gRPC: test_server.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mesh.errors import Draining
from mesh.streams import until_drained
from tests.support import turns


class Source:
    """Yields what is put, and knows whether it was closed."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[int] = asyncio.Queue()
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            while (item := await self.items.get()) >= 0:
                yield item
        finally:
            self.closed = True


async def collect(source: AsyncIterator[int], into: list[int], draining: asyncio.Event) -> None:
    async for item in until_drained(source, draining):
        into.append(item)


async def test_the_end_of_the_source_is_the_end() -> None:
    source, seen = Source(), list[int]()
    for item in (1, 2, 3, -1):
        source.items.put_nowait(item)
    await collect(aiter(source), seen, asyncio.Event())
    assert seen == [1, 2, 3]
    assert source.closed


async def test_a_wait_is_broken_off() -> None:
    source, seen, draining = Source(), list[int](), asyncio.Event()
    task = asyncio.create_task(collect(aiter(source), seen, draining))
    source.items.put_nowait(1)
    await turns()
    draining.set()
    with pytest.raises(Draining):
        await task
    assert seen == [1]
    assert source.closed
    assert task.cancelling() == 0


async def test_work_on_an_item_is_not() -> None:
    source, draining, finished = Source(), asyncio.Event(), list[int]()

    async def work() -> None:
        async for item in until_drained(aiter(source), draining):
            draining.set()
            await asyncio.sleep(0.05)
            finished.append(item)

    source.items.put_nowait(1)
    source.items.put_nowait(2)
    with pytest.raises(Draining):
        await work()
    assert finished == [1], "the item in hand is finished, the next one is not begun"


async def test_a_drain_before_the_start() -> None:
    draining = asyncio.Event()
    draining.set()
    with pytest.raises(Draining):
        await collect(aiter(Source()), [], draining)


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    draining = asyncio.Event()
    task = asyncio.create_task(collect(aiter(Source()), [], draining))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_and_a_drain_together_is_a_cancel() -> None:
    draining = asyncio.Event()
    task = asyncio.create_task(collect(aiter(Source()), [], draining))
    await turns()
    draining.set()
    await asyncio.sleep(0)  # the watcher is done, its callback comes next
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_it_leaves_no_task_behind() -> None:
    source, draining = Source(), asyncio.Event()
    source.items.put_nowait(-1)
    await collect(aiter(source), [], draining)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_ends_though_its_source_kept_the_cancellation_to_itself() -> None:
    seen: list[int] = []

    async def source() -> AsyncIterator[int]:
        yield 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield 2
        await asyncio.Event().wait()

    async def consume() -> None:
        async for item in until_drained(source(), asyncio.Event()):
            seen.append(item)

    consuming = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    consuming.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(consuming), 5)
    assert consuming.cancelled()
    assert seen == [1, 2]
