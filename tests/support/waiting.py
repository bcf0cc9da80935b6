"""Waiting until something is so, however busy the machine is."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE = 60.0
"""Seconds. What is waited for comes in a fraction of one; a machine with other work may take many times as long."""
_PAUSE = 0.01


async def until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """Returns once `condition()`, or what it is awaited to, is true; fails after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what or 'what is waited for'}") from None


async def turns(count: int = 50) -> None:
    """Lets every task of this loop that can go on do so, this many times over."""
    for _ in range(count):
        await asyncio.sleep(0)
