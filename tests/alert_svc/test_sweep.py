"""The sweep of alerts as a task that is told to stop."""

from __future__ import annotations

import asyncio

import pytest

from alert_svc.log import AlertLog
from alert_svc.sweep import sweep_forever
from mesh import redis


async def test_a_sweep_stops_whenever_it_is_told_to(redis_url: str) -> None:
    connection = redis.connect(redis_url)
    log = AlertLog(connection, retention_days=1)
    await log.sweep()  # connected
    for turns in range(1, 30):
        sweeping = asyncio.create_task(sweep_forever(log, 0))
        for _ in range(turns):
            await asyncio.sleep(0)
        sweeping.cancel()
        done, _ = await asyncio.wait([sweeping], timeout=60)
        assert done, f"it goes on after {turns} turns of the loop"
        with pytest.raises(asyncio.CancelledError):
            await sweeping
    await connection.aclose()
