"""What a token has opened ends with it: whoever lost their role must not go on listening for days."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final, TypeVar

from mesh.auth.tokens import LEEWAY_SECONDS
from mesh.errors import Unauthenticated
from mesh.principal import Principal

T = TypeVar("T")

LOOK_SECONDS: Final = 30.0
"""How often it is seen whether the key of a token is still trusted."""


class Ended(Unauthenticated):
    """The token is over (TOKEN_EXPIRED), or its key is not trusted any more (TOKEN_REVOKED)."""


async def while_good(principal: Principal, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the token ends or its key is withdrawn. Raises Ended."""
    if principal.expires is None:
        return await work
    loop, revoked = asyncio.get_running_loop(), False
    looking: asyncio.TimerHandle

    def look() -> None:
        nonlocal revoked, looking
        revoked = not principal.trusted()
        if revoked:
            limit.reschedule(loop.time())
        else:
            looking = loop.call_later(LOOK_SECONDS, look)

    looking = loop.call_later(LOOK_SECONDS, look)
    try:
        async with asyncio.timeout(max(0.0, principal.expires + LEEWAY_SECONDS - time.time())) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        if revoked:
            raise Ended("the token's key is not trusted any more", reason="TOKEN_REVOKED") from None
        raise Ended("the token has expired", reason="TOKEN_EXPIRED") from None
    finally:
        looking.cancel()
