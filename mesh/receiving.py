"""Receives the one request of a call: each within a time, few at once, nobody behind somebody else who is slow.

gRPC takes a message of any size up to the limit as soon as somebody waits for it, and what has come of it stays in
memory until the rest has. So few are waited for at once, of each caller and in all. Others wait for their turn, with
no more of their request here than HTTP/2's first window (`limits.OPTIONS`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from mesh import limits
from mesh.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

Key: TypeAlias = tuple[str, str]
_RETRY_SECONDS: Final = 1.0
_GONE_SECONDS: Final = 0.5


class _Turn:
    """One request that is being received."""

    __slots__ = ("caller", "given_up", "limit", "since")

    def __init__(self, caller: _Caller, since: float) -> None:
        self.caller, self.since = caller, since
        self.limit: asyncio.Timeout | None = None
        self.given_up = False

    def give_up(self, now: float) -> None:
        """Somebody else needs the room."""
        self.given_up = True
        if self.limit is not None:
            self.limit.reschedule(now)


class _Caller:
    """What one caller has: turns, oldest first, and calls that wait for theirs."""

    __slots__ = ("key", "turns", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.turns: dict[_Turn, None] = {}
        self.waiting: deque[asyncio.Future[_Turn]] = deque()

    @property
    def oldest(self) -> _Turn:
        return next(iter(self.turns))


class Receiving:
    """The requests that a server receives."""

    def __init__(self) -> None:
        self._callers: dict[Key, _Caller] = {}
        self._queue: OrderedDict[Key, _Caller] = OrderedDict()  # those who wait and have a part left: each in turn
        self._all = 0
        self._later: asyncio.TimerHandle | None = None

    async def receive(self, key: Key, read: Callable[[], Awaitable[Any]]) -> Any:
        """The request that `read` reads, of the caller `key`.

        Raises DeadlineExceeded (REQUEST_TOO_SLOW); ResourceExhausted (TOO_MANY_REQUESTS) where it was slow and others
        needed the room; InvalidArgument where there is none (REQUEST_MISSING) or it is no message (REQUEST_MALFORMED).
        """
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller(key)
        # Who has a part left and waits all the same stands in the queue, and goes first.
        if self._all < limits.RECEIVING and len(caller.turns) < limits.RECEIVING_SHARE and not caller.waiting:
            turn = self._take(caller)
        else:
            turn = await self._wait(caller)
        try:
            async with asyncio.timeout(0 if turn.given_up else limits.REQUEST_SECONDS) as turn.limit:
                request = await read()
        except TimeoutError:
            if turn.given_up:
                raise ResourceExhausted(
                    "the request came slowly, and others wait", reason="TOO_MANY_REQUESTS", retry_after=_RETRY_SECONDS
                ) from None
            raise DeadlineExceeded(
                f"the request did not come within {limits.REQUEST_SECONDS:g} s", reason="REQUEST_TOO_SLOW"
            ) from None
        except DecodeError:
            raise InvalidArgument("the request is not a message of its kind", reason="REQUEST_MALFORMED") from None
        finally:
            self._leave(turn)
        if request is grpc.aio.EOF:
            # So reads a call that is cancelled or out of time, too: there this is cancelled, as soon as it is heard of.
            await asyncio.sleep(_GONE_SECONDS)
            raise InvalidArgument("a request is needed", reason="REQUEST_MISSING")
        return request

    def _take(self, caller: _Caller) -> _Turn:
        turn = _Turn(caller, asyncio.get_running_loop().time())
        caller.turns[turn] = None
        self._all += 1
        return turn

    def _leave(self, turn: _Turn) -> None:
        caller = turn.caller
        if caller.turns.pop(turn, turn) is None:  # else it was given up, and the room is somebody else's
            self._all -= 1
        if caller.waiting or self._queue:
            self._enqueue(caller)
            self._go_on()
        self._forget(caller)

    async def _wait(self, caller: _Caller) -> _Turn:
        turn: asyncio.Future[_Turn] = asyncio.get_running_loop().create_future()
        caller.waiting.append(turn)
        self._enqueue(caller)
        self._go_on()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(turn.result())
            else:
                with suppress(ValueError):  # somebody who looked for the next one has seen it
                    caller.waiting.remove(turn)
                self._enqueue(caller)
                self._forget(caller)
            raise

    def _forget(self, caller: _Caller) -> None:
        """Memory is for those who are here."""
        if not caller.turns and not caller.waiting and self._callers.get(caller.key) is caller:
            del self._callers[caller.key]

    def _enqueue(self, caller: _Caller) -> None:
        if caller.waiting and len(caller.turns) < limits.RECEIVING_SHARE:
            self._queue.setdefault(caller.key, caller)
        else:
            self._queue.pop(caller.key, None)

    def _go_on(self) -> None:
        """Let those who wait have their turns, as far as there is room, or somebody slow to make it."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        while self._queue:
            caller = next(iter(self._queue.values()))
            if caller.waiting[0].done():  # cancelled, and about to say so
                caller.waiting.popleft()
            elif self._all < limits.RECEIVING or self._make_room():
                del self._queue[caller.key]  # to the end of it, where others wait too
                caller.waiting.popleft().set_result(self._take(caller))
            else:
                return
            self._enqueue(caller)

    def _make_room(self) -> bool:
        """Give up the oldest of whoever has most, if it is slow; where it is not yet, look again when it is."""
        loop = asyncio.get_running_loop()
        caller = max(self._callers.values(), key=lambda one: (len(one.turns), -one.oldest.since if one.turns else 0.0))
        turn, now = caller.oldest, loop.time()
        if now < turn.since + limits.SLOW_SECONDS:
            self._later = loop.call_at(turn.since + limits.SLOW_SECONDS, self._go_on)
            return False
        del caller.turns[turn]
        self._all -= 1
        turn.give_up(now)
        return True
