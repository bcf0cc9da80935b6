"""What is kept of refused calls: all, but of one who is refused all the time some, and how many there were."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from mesh.principal import Principal

_BURST: Final = 30.0
_PER_SECOND: Final = 0.5
_CALLERS: Final = 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was not let through."""

    principal: Principal | None
    """None where it could not be found out."""
    method: str
    """poi.v1.AlertService/GetAlert"""
    resource: str
    """The name that the request's row points at (of a stream, its first message's); "" where unknown."""
    code: str
    """PERMISSION_DENIED"""
    reason: str
    """ROLE_MISSING. Not the error itself, which holds on to the request."""
    peer: str
    host: str = ""
    """The peer's address alone."""
    more: int = 0
    """How many of the same caller's came before it, of which there is no record."""


Told = Callable[[Refusal], Awaitable[None]]
"""Is told of a refusal before the caller is. What it raises is what the caller is told."""


class Refusals:
    """Tells of a caller's refusals while they are few: the first 30, and one each 2 s; the others are counted.

    The audit log is never shortened but by age, so whoever knocks all day must not be able to fill it. The count comes
    with the next one that is told, which is the last of them where no other comes.
    """

    def __init__(self, told: Told, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._told, self._clock = told, clock
        self._callers: OrderedDict[tuple[str, str], _Caller] = OrderedDict()
        self._late: set[asyncio.Future[None]] = set()

    async def tell(self, refusal: Refusal) -> None:
        """Of one more."""
        who = refusal.principal
        key = ("", refusal.host) if who is None else (who.kind, who.name)
        now = self._clock()
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller(_BURST, now)
            if len(self._callers) > _CALLERS:
                self._end(self._callers.popitem(last=False)[1])
        self._callers.move_to_end(key)
        caller.left = min(_BURST, caller.left + _PER_SECOND * (now - caller.at))
        caller.at = now
        if caller.left < 1:
            caller.skip(refusal, lambda: self._end(caller))
            return
        caller.left -= 1
        await self._told(replace(refusal, more=caller.taken()))

    async def close(self) -> None:
        """Tells what is counted."""
        for caller in self._callers.values():
            self._end(caller)
        if self._late:
            await asyncio.wait(self._late)

    def _end(self, caller: _Caller) -> None:
        """Tell of the last one that was counted, if any was."""
        last, count = caller.last, caller.taken()
        if last is not None:
            task = asyncio.ensure_future(self._told(replace(last, more=count - 1)))
            self._late.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()


class _Caller:
    """How much of one may still be told."""

    def __init__(self, left: float, at: float) -> None:
        self.left, self.at = left, at
        self.last: Refusal | None = None
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def skip(self, refusal: Refusal, later: Callable[[], None]) -> None:
        """Count it; `later` is called when it is time for another one."""
        self.last = refusal
        self._count += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1 / _PER_SECOND, later)

    def taken(self) -> int:
        """How many were counted since; none are from now on."""
        count, self._count, self.last = self._count, 0, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return count
