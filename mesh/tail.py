"""A Redis Stream as a log that any number of clients of one process follow, each from its own cursor.

A cursor is the id of a stream entry ("1795225005936-0"). One blocking XREAD a stream and process feeds a ring in
memory, and the clients read from the ring; one that starts in the past, or is too slow for the ring, reads pages from
Redis until it has caught up. A client costs a position and at most one page of references, however slow it is.

Whoever shortens such a log must do it with `trim` (or `TRIM` in a script of its own): it notes how far the log is gone,
so that a cursor older than that is refused instead of skipping entries unseen. Redis 6.2 keeps no such note itself.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from mesh.errors import InvalidArgument, OutOfRange, ResourceExhausted
from mesh.redis import BLOCK_MS, Redis

_log = structlog.get_logger(__name__)

_CURSOR: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_PAGE: Final = 256
"""Entries read at once; below the ring's size, so that a burst is handed on before it leaves the ring."""

_ASKING: Final = 16
"""Subscribers that ask Redis at once. A thousand that come back together would open as many connections, and some of
them be told that Redis cannot be reached."""
_TIMER_SECONDS: Final = 0.001
"""How much too early a timer may go off."""

TRIM: Final = """
local function trim(log, note, oldest)
  local last = redis.call('XREVRANGE', log, '(' .. oldest, '-', 'COUNT', 1)[1]
  if last then
    redis.call('XTRIM', log, 'MINID', oldest)
    redis.call('SET', note, last[1])
  end
end
"""
"""Lua: `trim(log, note_key(log), "MS-0")` drops the entries before that id. Not with `~`: the note must be exact."""

_TRIM_SCRIPT: Final = TRIM + "trim(KEYS[1], KEYS[2], ARGV[1])"


REWRITTEN: Final = b"rewritten"
"""An entry with this field says that entries before it are not what they were: nobody is to be told these any more."""


def note_key(key: str) -> str:
    """Where the id of the last trimmed entry of the log `key` is kept."""
    return f"{key}:trimmed"


async def trim(redis: Redis, key: str, oldest_ms: int) -> None:
    """Drop the entries of the log `key` that are older than `oldest_ms` (epoch milliseconds)."""
    await redis.register_script(_TRIM_SCRIPT)(keys=[key, note_key(key)], args=[f"{oldest_ms}-0"])


class _Position(NamedTuple):
    """A place in the log: after the entry with this id."""

    milliseconds: int
    sequence: int

    @classmethod
    def parse(cls, cursor: str) -> _Position:
        found = _CURSOR.fullmatch(cursor)
        if found is None or max(position := cls(int(found[1]), int(found[2]))) >= 1 << 64:
            raise InvalidArgument(violations=[("cursor", "is not a cursor")], reason="INVALID_CURSOR")
        return position

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"


class _Entry(NamedTuple):
    position: _Position
    id: str
    fields: dict[bytes, bytes]


class _Waiters:
    """Those who wait for the next entry, or until their heartbeat is due; one timer for all of them.

    All wait equally long, so that who came first is due first. A wait with a timer for each, set and
    cancelled with every entry, was 17 % of the server's samples in a profile of bench.alerts.
    """

    def __init__(self) -> None:
        self._due: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, due: float) -> bool:
        """Whether `wake` was called before `due` (time of the event loop)."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        self._due[woken] = due
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring)
        try:
            return await woken
        finally:
            self._due.pop(woken, None)

    def wake(self) -> None:
        """Let all go on who wait."""
        for woken in self._due:
            if not woken.done():
                woken.set_result(True)

    def _ring(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time() + _TIMER_SECONDS
        for woken, due in self._due.items():
            if due > now:
                self._timer = loop.call_at(due, self._ring)
                return
            if not woken.done():
                woken.set_result(False)


class StreamTail:
    """Follows one Redis Stream for all its subscribers in this process. The reader runs only while there are some."""

    def __init__(
        self,
        redis: Redis,
        key: str,
        *,
        ring: int = 1024,
        heartbeat: float = 5.0,
        opened: Callable[[dict[bytes, bytes]], dict[bytes, bytes]] = lambda fields: fields,
    ) -> None:
        """`ring`: how many of the newest entries stay in memory. `heartbeat`: seconds of quiet before one is due.
        `opened`: makes of an entry's fields what subscribers get; once for all of them where it can be."""
        self._redis, self._key, self._heartbeat, self._opened = redis, key, heartbeat, opened
        # All entries after `_base` that the reader has seen, oldest first.
        self._ring: list[_Entry] = []  # a slice of a deque would walk there from one of its ends
        self._size = ring
        self._base = _Position(0, 0)
        self._slow = _Position(0, 0)
        """Who is behind it is too slow. Who is not, and behind `_base`, has to read what was rewritten again."""
        self._waiters = _Waiters()
        self._joining = asyncio.Lock()
        self._asking = asyncio.Semaphore(_ASKING)
        self._subscribers = 0
        self._reader: asyncio.Task[None] | None = None

    async def position(self) -> str:
        """The cursor of the log's end: following from there gives what is appended from now on.

        A subscriber that wants live entries only takes this before it calls `entries`, so that it has a cursor to
        resume from even if it never sees an entry.
        """
        async with self._asking, self._redis.pipeline(transaction=True) as pipe:
            pipe.get(note_key(self._key))
            pipe.xrevrange(self._key, count=1)
            trimmed, last = await pipe.execute()
        return str(max(_noted(trimmed), _entry(*last[0]).position if last else _Position(0, 0)))

    async def since(self, milliseconds: int) -> str:
        """The cursor to follow from for all kept entries that were appended at this time (epoch ms) or later."""
        start = _Position(milliseconds - 1, (1 << 64) - 1) if milliseconds > 0 else _Position(0, 0)
        return str(max(start, _noted(await self._trimmed())))

    async def entries(
        self, after: str | None, *, refuse_slow: bool = False
    ) -> AsyncGenerator[tuple[str, dict[bytes, bytes]] | None, None]:
        """(id, fields) of each entry after the cursor `after` (None: from now on), in order, once each, then live.

        None says that a heartbeat is due: at once, and after each `heartbeat` seconds without an entry. Its cursor is
        the last id that this iterator yielded, else `after`. Fields are shared by all subscribers: do not change them.

        Raises:
            InvalidArgument: `after` is not a cursor.
            OutOfRange: entries after the cursor are gone already (CURSOR_EXPIRED).
            ResourceExhausted: with `refuse_slow`, a subscriber that had caught up fell behind the ring (SLOW_CLIENT,
                with its `cursor` in the metadata). Otherwise it goes on, reading pages from Redis.
            redis.exceptions.RedisError: Redis is away and what is asked for is not in the ring. A subscriber that has
                caught up just waits for Redis to come back.
        """
        position = _Position.parse(await self.position() if after is None else after)
        loop = asyncio.get_running_loop()
        await self._join()
        try:
            if position < self._base:
                _refuse_expired(position, await self._trimmed())
            yield None
            due = loop.time() + self._heartbeat
            was_live = False
            while True:
                if position < self._base:
                    if refuse_slow and was_live and position < self._slow:
                        raise slow_client(str(position))
                    batch = await self._page(position)
                    if not batch:
                        position = self._base  # nothing is left between here and the ring
                else:
                    was_live = True
                    batch = self._ring_after(position)
                    if not batch:
                        if not await self._waiters.wait(due):
                            yield None
                            due = loop.time() + self._heartbeat
                        continue
                for entry in batch:
                    yield entry.id, entry.fields
                    position = entry.position
                if len(batch) == _PAGE:
                    await asyncio.sleep(0)  # a subscriber that wants none of it would hold up the others
                due = loop.time() + self._heartbeat
        finally:
            self._leave()

    async def _join(self) -> None:
        async with self._joining:
            if self._reader is None:
                self._ring.clear()
                self._base = self._slow = _Position.parse(await self.position())
                self._reader = asyncio.create_task(self._read(self._base), name=f"tail {self._key}")
            self._subscribers += 1

    def _leave(self) -> None:
        self._subscribers -= 1
        if self._subscribers == 0 and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _read(self, last: _Position) -> None:
        """Feeds the ring with what comes after `last`. Each read says after which entry: an outage skips nothing."""
        reader = asyncio.current_task()
        backoff = 0.1
        # Not for ever: redis-py loses a cancellation that comes together with an answer.
        while self._reader is reader:
            try:
                answer: Any = await self._redis.xread({self._key: str(last)}, count=_PAGE, block=BLOCK_MS)
                entries = [self._entry(*raw) for _, raws in answer for raw in raws]
                backoff = 0.1
            except Exception as error:  # whatever it is: a reader that ends leaves its subscribers waiting in vain
                _log.warning("log_unreadable", key=self._key, error=repr(error), retry_in_seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, 1.0)
                continue
            if entries and self._reader is reader:
                last = entries[-1].position
                self._publish(entries)

    def _publish(self, entries: list[_Entry]) -> None:
        for at in range(len(entries) - 1, -1, -1):
            if REWRITTEN in entries[at].fields:
                # Who is behind it reads the log, not what was in memory; who is not has nothing to read again.
                before = entries[at - 1] if at else self._ring[-1] if self._ring else None
                self._base = before.position if before is not None else self._base
                self._ring, entries = [], entries[at:]
                break
        self._ring += entries
        if (excess := len(self._ring) - self._size) > 0:
            self._base = self._slow = self._ring[excess - 1].position
            del self._ring[:excess]
        self._waiters.wake()

    def _ring_after(self, position: _Position) -> list[_Entry]:
        start = bisect_right(self._ring, position, key=lambda entry: entry.position)
        return self._ring[start : start + _PAGE]

    async def _trimmed(self) -> bytes | str | None:
        async with self._asking:
            return await self._redis.get(note_key(self._key))

    async def _page(self, position: _Position) -> list[_Entry]:
        async with self._asking, self._redis.pipeline(transaction=True) as pipe:
            pipe.get(note_key(self._key))
            pipe.xrange(self._key, min=f"({position}", count=_PAGE)
            trimmed, raws = await pipe.execute()
        _refuse_expired(position, trimmed)
        return [self._entry(*raw) for raw in raws]

    def _entry(self, raw_id: bytes, fields: Mapping[Any, Any]) -> _Entry:
        entry = _entry(raw_id, fields)
        return entry._replace(fields=self._opened(entry.fields))


def slow_client(cursor: str) -> ResourceExhausted:
    """What a subscriber that reads too slowly is told."""
    return ResourceExhausted(
        "the client reads too slowly: resume from the cursor", reason="SLOW_CLIENT", metadata={"cursor": cursor}
    )


def _entry(raw_id: bytes, fields: Mapping[Any, Any]) -> _Entry:
    text = raw_id.decode("ascii")
    milliseconds, _, sequence = text.partition("-")
    return _Entry(_Position(int(milliseconds), int(sequence)), text, dict(fields))


def _noted(trimmed: bytes | str | None) -> _Position:
    return _Position.parse(trimmed.decode("ascii")) if isinstance(trimmed, bytes) else _Position(0, 0)


def _refuse_expired(position: _Position, trimmed: bytes | str | None) -> None:
    if position < _noted(trimmed):
        raise OutOfRange(
            "the cursor is older than the log: read the current state, then follow from now on", reason="CURSOR_EXPIRED"
        )
