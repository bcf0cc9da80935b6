"""Supervised background tasks."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from structlog.testing import capture_logs

from mesh.aio import Background


async def test_a_task_that_dies_is_logged_reported_and_started_again() -> None:
    background = Background(first_backoff=0.01, max_backoff=0.02)
    health: list[bool] = []
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise RuntimeError("connection lost")

    with capture_logs() as logs:
        await background.start("follow", work, healthy=health.append)
    assert runs == 4
    assert health == [False, True, False, True, False, True]
    assert [(line["event"], line["task"], line["restart_in_seconds"]) for line in logs] == [
        ("background_task_died", "follow", 0.01),
        ("background_task_died", "follow", 0.02),
        ("background_task_died", "follow", 0.02),
    ]


async def test_close_ends_all() -> None:
    background = Background()
    ended = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    tasks = [background.start(name, partial(forever, name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    await background.close()
    assert sorted(ended) == ["a", "b"]
    assert all(task.cancelled() for task in tasks)
    await background.close()


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    """As redis-py does where an answer comes at that moment."""
    background, started = Background(patience=0.01), asyncio.Event()

    async def forgetful() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = background.start("forgetful", forgetful)
    await started.wait()
    async with asyncio.timeout(60):
        await background.close()

    assert task.cancelled()
