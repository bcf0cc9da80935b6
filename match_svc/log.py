"""Reading the registry's log: a first load, then one change after the other, each looked up as it is now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from poi.v1 import match_pb2, watchlist_pb2

from match_svc import watchlists
from match_svc.registry import LOG, REVISION, REVISIONS, SETTINGS, pois_key, watchlists_key
from mesh.redis import BLOCK_MS, Redis

_CHUNK = 500
"""Records asked for at once: 1.5 MB or so, a few ms of Redis."""
_MOST_CHANGES = 2000


class Change(NamedTuple):
    """An entry of the log."""

    revision: int
    store: str
    poi_id: str
    """Empty for the store's settings and watchlists."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a load begins: what is read after it is at least as new."""

    position: bytes
    """Id of the log's last entry."""
    revision: int
    stores: dict[str, int]
    """Store -> revision of its last change."""


class LogReader:
    """Reads log and records. Raises what redis raises when Redis cannot be reached."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def start(self) -> Start:
        """Note the position in the log, before any record is read."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xrevrange(LOG, count=1)
            pipe.get(REVISION)
            pipe.hgetall(REVISIONS)
            last, revision, revisions = await pipe.execute()
        return Start(
            position=last[0][0] if last else b"0-0",
            revision=int(revision or 0),
            stores={store.decode(): int(number) for store, number in revisions.items()},
        )

    async def records(self, store: str) -> AsyncIterator[dict[str, bytes]]:
        """All records of a store, by POI, in chunks."""
        cursor = 0
        while True:
            cursor, found = await cast("Awaitable[Any]", self._redis.hscan(pois_key(store), cursor, count=_CHUNK))
            if found:
                yield {poi_id.decode(): value for poi_id, value in found.items()}
            if not cursor:
                return

    async def lookup(self, store: str, poi_ids: Iterable[str]) -> dict[str, bytes | None]:
        """The records of these persons now; None for those that are gone."""
        ids = list(poi_ids)
        found: dict[str, bytes | None] = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            values = await cast("Awaitable[list[bytes | None]]", self._redis.hmget(pois_key(store), chunk))
            found.update(zip(chunk, values, strict=True))
        return found

    async def rules(self, store: str) -> tuple[match_pb2.MatchSettings, list[watchlist_pb2.Watchlist]]:
        """The store's settings and watchlists now."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(SETTINGS, store)
            pipe.hgetall(watchlists_key(store))
            settings, lists = await pipe.execute()
        return match_pb2.MatchSettings.FromString(settings or b""), [
            watchlist for _, watchlist in watchlists.readable(lists)
        ]

    async def wait(self, position: bytes) -> tuple[bytes, list[Change]]:
        """The changes behind `position`, as soon as there are any, and the new position; nothing after 2 s without."""
        answer = await self._redis.xread({LOG: position}, count=_MOST_CHANGES, block=BLOCK_MS)
        return _parse(answer, position)

    async def look(self, position: bytes) -> tuple[list[Change], int]:
        """The changes behind `position` and the registry's revision, both of one moment."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xread({LOG: position}, count=_MOST_CHANGES)
            pipe.get(REVISION)
            answer, revision = await pipe.execute()
        return _parse(answer, position)[1], int(revision or 0)


def _parse(answer: Any, position: bytes) -> tuple[bytes, list[Change]]:
    if not answer:
        return position, []
    # A list of (stream, entries) under RESP2, a dict of stream -> [entries] under RESP3.
    ((_, entries),) = answer.items() if isinstance(answer, dict) else answer
    if isinstance(answer, dict):
        (entries,) = entries
    changes = [Change(int(fields[b"r"]), fields[b"s"].decode(), fields[b"p"].decode()) for _, fields in entries]
    return entries[-1][0], changes
