"""Bounded threads and windows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from embed_svc.work import Workers, in_order
from mesh import errors


class Gate:
    """Work that waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.done = 0

    def __call__(self) -> int:
        self.begun.release()
        assert self.open.wait(60)
        self.done += 1
        return self.done

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, True, 60)


async def test_more_than_may_wait_is_refused_and_a_patient_caller_waits() -> None:
    workers, gate = Workers(threads=1, max_waiting=1), Gate()
    running = asyncio.create_task(workers.run(gate))
    await gate.wait_begun()
    waiting = asyncio.create_task(workers.run(gate))
    await asyncio.sleep(0)
    with pytest.raises(errors.ResourceExhausted) as caught:
        await workers.run(gate)
    assert caught.value.reason == "TOO_MANY_IMAGES"
    assert caught.value.retry_after
    patient = asyncio.create_task(workers.run(gate, patient=True))
    gate.open.set()
    assert [await running, await waiting, await patient] == [1, 2, 3]
    assert await workers.run(gate) == 4, "and then there is room again"
    await workers.close()


async def test_patient_callers_do_not_take_the_room_of_others() -> None:
    """Frames of a few streams that wait would otherwise keep every single image out."""
    workers, gate = Workers(threads=1, max_waiting=1), Gate()
    running = asyncio.create_task(workers.run(gate))
    await gate.wait_begun()
    patient = [asyncio.create_task(workers.run(gate, patient=True)) for _ in range(5)]
    await asyncio.sleep(0)

    waiting = asyncio.create_task(workers.run(gate))
    gate.open.set()

    assert await running == 1
    assert sorted([*await asyncio.gather(*patient), await waiting]) == [2, 3, 4, 5, 6, 7]
    await workers.close()


async def test_a_caller_that_leaves_the_queue_is_never_worked_for() -> None:
    workers, gate = Workers(threads=1, max_waiting=5), Gate()
    running = asyncio.create_task(workers.run(gate))
    await gate.wait_begun()
    leaving, staying = (asyncio.create_task(workers.run(gate)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    gate.open.set()
    assert [await running, await staying] == [1, 2]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await workers.close()
    assert gate.done == 2


async def test_a_thread_stays_taken_when_its_caller_is_cancelled() -> None:
    workers, gate = Workers(threads=1, max_waiting=0), Gate()
    running = asyncio.create_task(workers.run(gate))
    await gate.wait_begun()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(errors.ResourceExhausted):
        await workers.run(gate)
    gate.open.set()
    assert await workers.run(gate, patient=True) == 2
    await workers.close()


async def test_an_error_of_the_work_reaches_its_caller_alone() -> None:
    workers = Workers(threads=1, max_waiting=0)
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    assert await workers.run(lambda: "fine") == "fine"
    await workers.close()


async def numbers(count: int, taken: list[int], end: Exception | None = None) -> AsyncIterator[int]:
    for number in range(count):
        taken.append(number)
        yield number
    if end:
        raise end


async def test_results_keep_the_order_and_the_window() -> None:
    active, most, taken = 0, 0, list[int]()

    async def work(number: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.002 * (5 - number % 5))  # later ones are done sooner
        active -= 1
        return number

    assert [result async for result in in_order(numbers(40, taken), work, 4)] == list(range(40))
    assert most == 4


async def test_nothing_is_read_beyond_the_window() -> None:
    taken, gate = list[int](), asyncio.Event()

    async def work(number: int) -> int:
        await gate.wait()
        return number

    results = in_order(numbers(100, taken), work, 3)
    first = asyncio.ensure_future(anext(results))
    for _ in range(50):
        await asyncio.sleep(0)
    assert taken == [0, 1, 2, 3], "three are worked on and one waits"
    gate.set()
    assert await first == 0
    await results.aclose()  # type: ignore[attr-defined]


async def test_what_was_taken_is_answered_before_the_source_fails() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.005)
        return number

    results = in_order(numbers(3, [], errors.Draining()), work, 8)
    assert [await anext(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(errors.Draining):
        await anext(results)


async def test_an_error_of_the_work_ends_everything() -> None:
    cancelled = asyncio.Event()

    async def work(number: int) -> int:
        if number == 1:
            raise ZeroDivisionError
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return number

    results = in_order(numbers(9, []), work, 4)
    assert await anext(results) == 0
    with pytest.raises(ZeroDivisionError):
        await anext(results)
    assert cancelled.is_set()
