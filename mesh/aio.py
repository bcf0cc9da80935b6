"""Background tasks that nobody awaits, supervised: one that dies is logged, reported and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_log = structlog.get_logger(__name__)


class Background:
    """The background tasks of one server. Close it from `Server.on_stop`.

    >>> background = Background()
    >>> background.start("follow", gallery.follow, healthy=lambda ok: server.set_serving(SERVICE, ok))
    >>> server.on_stop(background.close)
    """

    def __init__(
        self,
        *,
        first_backoff: float = 0.1,
        max_backoff: float = 5.0,
        steady_after: float = 10.0,
        patience: float = 2.0,
    ) -> None:
        """Backoff in seconds doubles from first to max; it starts over when a task has run for `steady_after`.

        A task that was cancelled has `patience` seconds to end before it is cancelled again.
        """
        self._patience = patience
        self._first, self._max, self._steady = first_backoff, max_backoff, steady_after
        self._tasks: dict[asyncio.Task[None], str] = {}

    def start(
        self, name: str, work: Callable[[], Awaitable[None]], *, healthy: Callable[[bool], None] | None = None
    ) -> asyncio.Task[None]:
        """Run `work` until it returns, again after a pause each time it raises.

        `healthy(False)` is called when it dies and `healthy(True)` when it is started again. A `work` that returns is
        done.
        """
        task = asyncio.create_task(self._supervise(name, work, healthy), name=name)
        self._tasks[task] = name
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def close(self) -> None:
        """Cancel all and wait for their ends.

        Who has not ended after a while is cancelled again: a library may swallow a cancellation, as `wait_for` does up
        to Python 3.11 where its answer comes at that moment.
        """
        waiting = set(self._tasks)
        while waiting:
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=self._patience)

    async def _supervise(
        self, name: str, work: Callable[[], Awaitable[None]], healthy: Callable[[bool], None] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        backoff = self._first
        while True:
            started = loop.time()
            try:
                await work()
                return
            except Exception:
                if loop.time() - started >= self._steady:
                    backoff = self._first
                _log.exception("background_task_died", task=name, restart_in_seconds=backoff)
            if healthy is not None:
                healthy(False)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, self._max)
            if healthy is not None:
                healthy(True)
