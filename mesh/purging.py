"""Makes the files of a Redis anew: they hold what was deleted, until Redis does that by itself some day."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from mesh.redis import Redis

_log = structlog.get_logger(__name__)
_DONE_SECONDS: Final = 3600
_WAIT_SECONDS: Final = 300.0
_LOOK_SECONDS: Final = 0.1
"""Redis tells nobody when it is done."""


async def purge(redis: Redis, token: str) -> list[str]:
    """Returns when no file of this Redis holds anything that was deleted before; else why it may. Once for a token.

    The append-only file is rewritten, and the snapshot where Redis makes any. Raises what redis raises when Redis
    cannot be reached.
    """
    done = f"poi:purged:{token}"
    if await redis.exists(done):
        return []
    try:
        persistence: Any = await redis.info("persistence")
        if persistence.get("aof_enabled"):
            await _idle(redis, "aof_rewrite_in_progress")  # one that runs began before the last deletion
            await redis.bgrewriteaof()
            await _idle(redis, "aof_rewrite_in_progress")
            if (await redis.info("persistence")).get("aof_last_bgrewrite_status") != "ok":
                return ["Redis could not rewrite its append-only file"]
        if (await redis.config_get("save")).get("save"):
            await _idle(redis, "rdb_bgsave_in_progress")
            await redis.bgsave()
            await _idle(redis, "rdb_bgsave_in_progress")
    except TimeoutError:
        return ["Redis is still writing its files anew"]
    except ResponseError as error:
        _log.warning("redis_not_purged", error=str(error))
        return ["this service may not ask Redis to write its files anew (BGREWRITEAOF, BGSAVE)"]
    await redis.set(done, "1", ex=_DONE_SECONDS)
    return []


async def _idle(redis: Redis, what: str) -> None:
    """Returns when Redis does not write that file. Raises TimeoutError."""
    async with asyncio.timeout(_WAIT_SECONDS):
        while True:
            state: Any = await redis.info("persistence")
            # A rewrite that waits for a snapshot to end is scheduled.
            if not state.get(what) and not state.get("aof_rewrite_scheduled"):
                return
            await asyncio.sleep(_LOOK_SECONDS)
