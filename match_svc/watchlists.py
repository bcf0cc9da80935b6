"""The watchlists of the registry. A change of one is a change of its store's rules in the log."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from poi.v1 import poi_pb2, watchlist_pb2

from match_svc.registry import LOG, RACES, REVISION, REVISIONS, etag_mismatch, members_key, watchlists_key
from mesh import names
from mesh.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

_ATTEMPT_SECONDS: Final = 60
"""How long a write is remembered: for as long as the connection may repeat it."""

_WRITE = """
local before = redis.call('GET', KEYS[6])
if before then return {'done', before} end
local record = redis.call('HGET', KEYS[1], ARGV[2])
local revision = record and string.match(record, '^%d+') or ''
if revision ~= ARGV[3] then return {'conflict', revision} end
if ARGV[4] == '' then
  local members = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
  if members > 0 then return {'members', tostring(members)} end
end
revision = redis.call('INCR', KEYS[4])
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], revision .. ':' .. ARGV[4])
end
redis.call('HSET', KEYS[5], ARGV[1], revision)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'r', revision, 's', ARGV[1], 'p', '')
redis.call('SET', KEYS[6], revision, 'EX', ARGV[5])
return {'done', tostring(revision)}
"""


class Stored(NamedTuple):
    """A list, and how many persons are on it."""

    watchlist: watchlist_pb2.Watchlist
    members: int


class Watchlists:
    """Reads and changes them. Raises what redis raises when Redis cannot be reached."""

    def __init__(self, redis: Redis, log_length: int, settled: Callable[[int], Awaitable[None]]) -> None:
        """Every change awaits `settled(revision)` before it is answered."""
        self._redis = redis
        self._log_length = log_length
        self._settled = settled
        self._write = redis.register_script(_WRITE)

    async def get(self, store: str, watchlist_id: str) -> Stored:
        """One list. Raises NotFound."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(watchlists_key(store), watchlist_id)
            pipe.hget(members_key(store), watchlist_id)
            value, members = await pipe.execute()
        if value is None:
            raise NotFound(names.watchlist(store, watchlist_id))
        return Stored(decode(value), int(members or 0))

    async def all(self, store: str) -> list[Stored]:
        """All lists of a store that can be read, by id."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(watchlists_key(store))
            pipe.hgetall(members_key(store))
            values, members = await pipe.execute()
        return [Stored(watchlist, int(members.get(one, 0))) for one, watchlist in readable(values)]

    async def retention(self, store: str, watchlists: Sequence[str]) -> Duration | None:
        """The shortest retention of these lists (by name); None where none has any. Raises NotFound."""
        if not watchlists:
            return None
        lists = await self.all(store)
        for name in watchlists:
            if all(one.watchlist.name != name for one in lists):
                raise NotFound(name)
        return _shortest(lists, watchlists)

    async def create(self, store: str, watchlist: watchlist_pb2.Watchlist) -> watchlist_pb2.Watchlist:
        """Keep a new list, named and complete. Raises AlreadyExists."""
        outcome, told = await self._run(store, watchlist.name.rpartition("/")[2], watchlist, "")
        if outcome == b"conflict":
            raise AlreadyExists(watchlist.name)
        return await self._kept(watchlist, told)

    async def change(
        self, store: str, watchlist_id: str, edit: Callable[[watchlist_pb2.Watchlist], None], etag: str = ""
    ) -> Stored:
        """Let `edit` change a list in place, and keep the result.

        Raises NotFound, Aborted (another etag, or others change it all the time), and what `edit` does.
        """
        for _ in range(RACES):
            watchlist, members = await self.get(store, watchlist_id)
            current = watchlist.etag
            if etag and etag != current:
                raise etag_mismatch(watchlist.name)
            edit(watchlist)
            watchlist.update_time.GetCurrentTime()
            outcome, told = await self._run(store, watchlist_id, watchlist, current)
            if outcome != b"conflict":
                return Stored(await self._kept(watchlist, told), members)
        raise _contended(store, watchlist_id)

    async def delete(self, store: str, watchlist_id: str, etag: str = "") -> int:
        """Remove a list; the revision of that.

        Raises NotFound, Aborted when it no longer has this etag, and FailedPrecondition while persons are on it.
        """
        for _ in range(RACES):
            watchlist, _ = await self.get(store, watchlist_id)
            if etag and etag != watchlist.etag:
                raise etag_mismatch(watchlist.name)
            outcome, told = await self._run(store, watchlist_id, None, watchlist.etag)
            if outcome == b"members":
                raise FailedPrecondition(
                    f"{told.decode()} persons are on {watchlist.name}: take them off first",
                    reason="WATCHLIST_NOT_EMPTY",
                    metadata={"name": watchlist.name, "members": told.decode()},
                )
            if outcome != b"conflict":
                await self._settled(int(told))
                return int(told)
        raise _contended(store, watchlist_id)

    async def _kept(self, watchlist: watchlist_pb2.Watchlist, told: bytes) -> watchlist_pb2.Watchlist:
        await self._settled(int(told))
        watchlist.etag = told.decode()
        return watchlist

    async def _run(
        self, store: str, watchlist_id: str, watchlist: watchlist_pb2.Watchlist | None, revision: str
    ) -> tuple[bytes, bytes]:
        record = b""
        if watchlist is not None:
            for field in ("etag", "poi_count", "effective"):
                cast(Message, watchlist).ClearField(field)
            record = watchlist.SerializeToString()
        answer: Any = await self._write(
            keys=[
                watchlists_key(store),
                members_key(store),
                LOG,
                REVISION,
                REVISIONS,
                f"poi:{{gallery}}:request:{store}:{uuid.uuid4().hex}",
            ],
            args=[store, watchlist_id, revision, record, _ATTEMPT_SECONDS, self._log_length],
        )
        outcome, told = cast("tuple[bytes, bytes]", answer)
        return outcome, told


def decode(value: bytes) -> watchlist_pb2.Watchlist:
    """A record as the registry keeps it; its revision is the etag."""
    revision, _, content = value.partition(b":")
    watchlist = watchlist_pb2.Watchlist.FromString(content)
    watchlist.etag = revision.decode()
    return watchlist


def readable(records: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, watchlist_pb2.Watchlist]]:
    """The lists of a store by id: one damaged record must not keep the others from being used."""
    for watchlist_id, value in sorted(records.items()):
        try:
            yield watchlist_id, decode(value)
        except (DecodeError, UnicodeDecodeError):
            _log.error("watchlist_unreadable", watchlist_id=watchlist_id.decode(errors="replace"))


def limit_stay(poi: poi_pb2.Poi, lists: Iterable[Stored]) -> None:
    """Give a person without an expire time the end that their watchlists set: the shortest retention, from enrolment.

    `lists` are those of the store. Changes nothing where no list of theirs has a retention.
    """
    stay = _shortest(lists, poi.watchlists)
    if stay is not None and not poi.HasField("expire_time"):
        poi.expire_time.FromNanoseconds(poi.create_time.ToNanoseconds() + stay.ToNanoseconds())


def _shortest(lists: Iterable[Stored], names_of: Sequence[str]) -> Duration | None:
    stays = [
        one.watchlist.retention
        for one in lists
        if one.watchlist.name in names_of and one.watchlist.HasField("retention")
    ]
    return min(stays, key=Duration.ToNanoseconds, default=None)


def _contended(store: str, watchlist_id: str) -> Aborted:
    return Aborted(f"{names.watchlist(store, watchlist_id)} is being changed by others", reason="CONCURRENT_CHANGE")
