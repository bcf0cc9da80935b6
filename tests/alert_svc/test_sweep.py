"""The sweep of alerts as a task that is told to stop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from alert_svc.log import AlertLog
from alert_svc.sweep import sweep_forever
from mesh import redis


class _Deaf(AlertLog):
    """Swallows a cancellation in a sweep, as Redis's client does where its answer comes at that moment."""

    sweeps = 0

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__(connection, retention_days=1)
        self.begun = asyncio.Event()

    async def sweep(self) -> None:
        self.sweeps += 1
        self.begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


async def test_a_sweep_that_is_told_to_stop_while_redis_answers_stops() -> None:
    connection = redis.connect("redis://127.0.0.1:1/0")  # which is never asked
    log = _Deaf(connection)
    sweeping = asyncio.create_task(sweep_forever(log, 0.01))
    await log.begun.wait()
    sweeping.cancel()
    done, _ = await asyncio.wait([sweeping], timeout=60)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
    assert done
    assert log.sweeps == 1
    await connection.aclose()
