"""Work in bounded amounts: in threads behind a queue of known length, and on a stream within a window."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from embed_svc import metrics
from mesh import errors

T = TypeVar("T")
Item = TypeVar("Item")

_RETRY_SECONDS = 0.5


class Workers:
    """A pool of threads with a queue of known length in front of it. Belongs to one event loop."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        """At most `threads` pieces of work run at a time; `max_waiting` more may wait for `run`, and patient ones."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="faces")
        self._free = asyncio.Semaphore(threads)
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, work: Callable[[], T], *, patient: bool = False) -> T:
        """The result of `work`, which runs in a thread when its turn comes, first come first served.

        Raises ResourceExhausted when too many wait already; a `patient` caller waits all the same (and must bound what
        it sends itself), and keeps nobody else from waiting. A caller cancelled while it waits leaves the queue; work
        that has begun runs to its end.
        """
        if self._free.locked() and self._waiting >= self._max_waiting and not patient:
            raise errors.ResourceExhausted(
                f"{self._waiting} images are waiting", retry_after=_RETRY_SECONDS, reason="TOO_MANY_IMAGES"
            )
        self._waiting += not patient
        try:
            with metrics.WAITING.track_inprogress():
                await self._free.acquire()
        finally:
            self._waiting -= not patient
        running = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        # Not when this coroutine ends: if it is cancelled the thread is still busy.
        running.add_done_callback(lambda _: _release(loop, self._free))
        return await asyncio.wrap_future(running)

    async def close(self) -> None:
        """Waits for the work that runs; no more may be given."""
        await asyncio.to_thread(self._pool.shutdown)


def _release(loop: asyncio.AbstractEventLoop, free: asyncio.Semaphore) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(free.release)


async def in_order(source: AsyncIterator[Item], work: Callable[[Item], Awaitable[T]], window: int) -> AsyncIterator[T]:
    """What `work` makes of each item, in the items' order, with up to `window` of them worked on at the same time.

    Nothing is read beyond the window and one item, so whoever feeds `source` is held back. When `source` raises, what
    was taken from it is still answered before the error is passed on; an error of `work` ends it at once.
    """
    free = asyncio.Semaphore(window)
    results: asyncio.Queue[asyncio.Future[T] | Exception | None] = asyncio.Queue()
    running: set[asyncio.Future[T]] = set()

    async def read() -> None:
        end: Exception | None = None
        try:
            async for item in source:
                await free.acquire()
                task = asyncio.ensure_future(work(item))
                running.add(task)
                task.add_done_callback(running.discard)
                results.put_nowait(task)
        except Exception as error:
            end = error
        results.put_nowait(end)

    reading = asyncio.create_task(read())
    try:
        while isinstance(result := await results.get(), asyncio.Future):
            yield await result
            free.release()
        if result is not None:
            raise result
    finally:
        left: list[asyncio.Future[Any]] = [reading, *running]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
