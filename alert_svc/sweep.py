"""What happens to alerts when nobody does anything: old ones go, and HIGH ones that wait too long escalate."""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import RedisError

from alert_svc.log import AlertLog

_log = structlog.get_logger(__name__)


async def sweep_forever(log: AlertLog, seconds: float) -> None:
    """Sweeps every so many seconds. Each server of a Redis does; what one of them has done is done."""
    while True:
        try:
            await log.sweep()
        except (RedisError, OSError) as error:  # what was due is still due when Redis is back
            _log.warning("sweep_failed", error=repr(error), retry_in_seconds=seconds)
        await asyncio.sleep(seconds)
