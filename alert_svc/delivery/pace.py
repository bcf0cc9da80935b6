"""When a failing target is tried again: exponential backoff with full jitter, and a circuit breaker on top.

A target has one attempt under way at a time, so that a breaker is a count and a least pause: no library needed.
Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

_MAX_RETRY_AFTER: Final = 3600.0
_MAX_EXPONENT: Final = 30


@dataclass(frozen=True, slots=True)
class Limits:
    """How patiently a target is tried. Times in seconds."""

    timeout: float = 10.0
    first_backoff: float = 1.0
    max_backoff: float = 60.0
    breaker_failures: int = 5
    """So many failures in a row break the circuit ..."""
    breaker_seconds: float = 30.0
    """... which is the least pause between attempts from then on, until one goes well."""
    give_up: float = 86_400.0
    """An event that is older than this when an attempt fails is given up."""
    max_attempts: int = 0
    """So is one that was tried so often; 0 for no such limit."""


class Pace:
    """The pauses of one target."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.failures = 0
        """In a row, of this worker."""
        self._hurry = asyncio.Event()

    def succeeded(self) -> None:
        """The last attempt went well."""
        self.failures = 0

    def failed(self, retry_after: float | None = None) -> float:
        """The last attempt did not; seconds to wait before the next one. `retry_after`: what the target asked for."""
        self.failures += 1
        limits = self._limits
        ceiling = min(limits.max_backoff, limits.first_backoff * 2 ** min(self.failures - 1, _MAX_EXPONENT))
        pause = random.uniform(0, ceiling)
        if self.failures >= limits.breaker_failures:
            pause = max(pause, limits.breaker_seconds)
        self._hurry.clear()
        return max(pause, min(retry_after or 0.0, _MAX_RETRY_AFTER))

    async def wait(self, seconds: float) -> None:
        """Returns after that time, or when somebody says that the target works again."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    def hurry(self) -> None:
        """The target works again."""
        self._hurry.set()
