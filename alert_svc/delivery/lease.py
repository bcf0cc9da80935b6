"""One worker of a target at a time, whichever server's: a lease in Redis that is renewed while its owner lives."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from alert_svc.delivery import scripts
from alert_svc.delivery.store import LeaseLost
from mesh.redis import Redis


@asynccontextmanager
async def held(redis: Redis, key: str, seconds: float) -> AsyncGenerator[str, None]:
    """Waits for the lease, gives its token, and gives the lease back; whoever dies loses it after `seconds`.

    The body is cancelled, and LeaseLost raised, when the lease is lost. That may come late by a command under way: what
    must not be done by two is checked against the token where it is written.
    """
    token, milliseconds = secrets.token_hex(8), round(seconds * 1000)
    while True:
        if await redis.set(key, token, nx=True, px=milliseconds):
            break
        await asyncio.sleep(seconds / 4)  # an owner that died gives no sign: its lease just runs out
    task = asyncio.current_task()
    assert task is not None
    lost = False

    async def renew() -> None:
        nonlocal lost
        script, loop = redis.register_script(scripts.RENEW), asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            await asyncio.sleep(seconds / 4)
            asked = loop.time()
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout_at(until):
                    if not await script(keys=[key], args=[token, milliseconds]):
                        break
                    until = asked + seconds
            if loop.time() >= until:
                break
        lost = True
        task.cancel()

    renewing = asyncio.create_task(renew(), name=f"renew {key}")
    try:
        yield token
    except asyncio.CancelledError:
        if lost and task.uncancel() == 0:
            raise LeaseLost(key) from None
        raise
    finally:
        renewing.cancel()
        if not lost:
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await redis.register_script(scripts.RELEASE)(keys=[key], args=[token])
