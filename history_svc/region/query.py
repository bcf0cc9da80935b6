"""Lists visits: newest entry first, filtered, page by page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from history_svc.region.keys import LASTING_MS, Keys
from history_svc.region.model import Visit, decode
from history_svc.region.occupancy import Occupancies, ZoneOccupancy
from history_svc.region.store import last_sight
from mesh.redis import Redis

_CHUNK = 500
_BUDGET = 20_000
"""Visits looked at for one page: a filter that finds little answers with what it has and a token to go on."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which visits. An empty set means all; times are in ms, `start` inclusive and `end` exclusive."""

    start: int | None = None
    end: int | None = None
    zones: frozenset[tuple[str, str]] = frozenset()
    """(scene, zone)"""
    object_ids: frozenset[str] = frozenset()
    cameras: frozenset[str] = frozenset()
    open: bool | None = None
    """Only those that go on (True) or are over (False)."""

    def accepts(self, visit: Visit) -> bool:
        """Whether the visit is one of them. One that goes on has no end yet."""
        return (
            (self.end is None or visit.enter < self.end)
            and (self.start is None or visit.exit is None or visit.exit >= self.start)
            and (not self.zones or (visit.scene, visit.zone) in self.zones)
            and (not self.object_ids or visit.object_id in self.object_ids)
            and (not self.cameras or not self.cameras.isdisjoint(visit.cameras))
            and (self.open is None or self.open == (visit.exit is None))
        )


class Position(NamedTuple):
    """A visit's place in the list."""

    enter: int
    id: str


class VisitQuery:
    """Reads what `SceneStore` writes. Raises redis.exceptions.RedisError when Redis cannot be reached."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def page(
        self, store: str, wanted: Filter, limit: int, after: Position | None
    ) -> tuple[list[Visit], Position | None]:
        """Up to `limit` visits after the position, and the position to go on from; None when these were the last.

        A page may be short, even empty, although there are more.
        """
        keys = Keys(store)
        scenes: Any = await self._redis.zrange(keys.scenes, 0, -1)
        found: list[Visit] = []
        budget = _BUDGET
        for index, low, high in _ranges(keys, wanted):
            count = _CHUNK
            while True:
                top = high if after is None else min(high, after.enter)
                if top < low:
                    break
                places = await self._places(index, low, top, count)
                fresh = [place for place in places if after is None or place < after]
                for visit in await self._read(keys, [place.id for place in fresh], scenes):
                    if wanted.accepts(visit):
                        found.append(visit)
                        if len(found) > limit:
                            last = found[limit - 1]
                            return found[:limit], Position(last.enter, last.id)
                if len(places) < count:
                    break
                if not fresh:  # all of the chunk entered in the same millisecond as the last one
                    count *= 2
                    continue
                after = fresh[-1]
                budget -= len(fresh)
                if budget <= 0:
                    return found, after
        return found, None

    async def occupancies(
        self, store: str, scene: str, zones: Iterable[str], start: int, end: int
    ) -> dict[str, ZoneOccupancy]:
        """How many people were in these zones of a scene from `start` to `end` (ms); without zones with nobody."""
        found = Occupancies(start, end)
        wanted = Filter(start=start, end=end, zones=frozenset((scene, zone) for zone in zones))
        after: Position | None = None
        while wanted.zones:
            visits, after = await self.page(store, wanted, _BUDGET, after)
            found.add(visits)
            if after is None:
                break
        return found.zones()

    async def _places(self, index: str, low: float, high: float, count: int) -> list[Position]:
        raw: Any = await self._redis.zrevrangebyscore(index, high, low, start=0, num=count, withscores=True)
        return [Position(int(score), member.decode()) for member, score in raw]

    async def _read(self, keys: Keys, ids: list[str], scenes: list[bytes]) -> list[Visit]:
        if not ids:
            return []
        # One moment for all: a visit that goes on takes its last sight from its scene.
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(keys.visits, ids)
            for scene in scenes:
                pipe.hmget(keys.scene(scene.decode()), ["time", "lagging"])
            records, *sights = await pipe.execute()
        by_scene = {
            scene.decode(): (int(time) if time else None, orjson.loads(lagging or b"{}"))
            for scene, (time, lagging) in zip(scenes, sights, strict=True)
        }
        visits = [decode(id, record) for id, record in zip(ids, records, strict=True) if record is not None]
        for visit in visits:
            if visit.exit is None and visit.scene in by_scene:
                visit.seen = last_sight(visit, *by_scene[visit.scene])
        return visits


def _ranges(keys: Keys, wanted: Filter) -> list[tuple[str, float, float]]:
    """(index, lowest, highest entry) of the visits to look at, in the order of the list."""
    high = float("inf") if wanted.end is None else wanted.end - 1
    if wanted.open:
        return [(keys.lasting, float("-inf"), high)]
    if wanted.start is None:
        return [(keys.index, float("-inf"), high)]
    near = wanted.start - LASTING_MS
    return [(keys.index, near, high), (keys.lasting, float("-inf"), min(near - 1, high))]
