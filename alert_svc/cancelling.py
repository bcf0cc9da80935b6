"""What a long-lived task that talks to Redis does to end when it is told to."""

from __future__ import annotations

import asyncio


def leave_if_cancelled() -> None:
    """Raises CancelledError where the running task was cancelled and nobody noticed. To be called in every round.

    Redis's client may swallow a cancellation: Python 3.11's `wait_for` does, where the answer comes just then.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
