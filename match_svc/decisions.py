"""Whom a track was recognised as, so that its pooled faces are next compared with these persons alone.

Cache-aside: a small cache in this process in front of one in Redis that all replicas share. A decision only says where
to look first; what is reported is always the similarity of the faces as they are
pooled now. It ends with any change of the store's gallery
and after some seconds anyway. Redis being slow or away costs searches, nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from redis.exceptions import RedisError

from match_svc import metrics
from match_svc.gallery import Snapshot
from match_svc.people import Person
from match_svc.tracks import Track
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

People = tuple[Person, ...]
_NOBODY: People = ()
_PAUSE_SECONDS = 1.0
"""How long Redis is left alone after it failed: a batch must not wait for it again and again."""
_BATCHES_TO_WRITE = 256


class _Decision(NamedTuple):
    people: People
    """Nobody: Redis was asked and knew nobody."""
    gallery: int
    """Serial of the snapshot that it was made with."""
    until: float


class Decisions:
    """The decisions of this replica and, through Redis, of the others."""

    def __init__(self, redis: Redis, seconds: float, tracks: int, wait_seconds: float) -> None:
        """Decisions last `seconds`; this process keeps `tracks` of them, and waits `wait_seconds` for Redis."""
        self._redis = redis
        self._seconds = seconds
        self._tracks = tracks
        self._wait_seconds = wait_seconds
        self._local: dict[Track, _Decision] = {}  # oldest first
        self._avoid_redis_until = 0.0
        self._to_write: asyncio.Queue[list[tuple[str, str]]] = asyncio.Queue(_BATCHES_TO_WRITE)

    async def lookup(self, gallery: Snapshot, tracks: Sequence[Track]) -> list[People]:
        """For each track the persons it was recognised as, in this very snapshot; none where that is not known."""
        now = time.monotonic()
        local, serial = self._local, gallery.serial
        known: list[People] = []
        unknown: list[int] = []
        for position, track in enumerate(tracks):
            decision = local.get(track)
            if decision is not None and decision.gallery == serial and decision.until > now:
                known.append(decision.people)
            else:
                known.append(_NOBODY)
                unknown.append(position)
        if unknown and now >= self._avoid_redis_until:
            shared = await self._fetch(gallery, [tracks[position] for position in unknown])
            for position, people in zip(unknown, shared, strict=True):
                known[position] = people
        return known

    def decide(self, gallery: Snapshot, found: Sequence[tuple[Track, People]]) -> None:
        """Remember whom the whole gallery said these tracks are (nobody, for strangers)."""
        until = time.monotonic() + self._seconds
        shared: list[tuple[str, str]] = []
        for track, people in found:
            self._remember(track, _Decision(people, gallery.serial, until))
            if people:
                ends = round((time.time() + self._seconds) * 1000)
                value = " ".join([str(gallery.revision), str(ends), *(person.poi_id for person in people)])
                shared.append((_key(gallery.store, track), value))
        if shared and time.monotonic() >= self._avoid_redis_until and not self._to_write.full():
            self._to_write.put_nowait(shared)

    async def run(self) -> None:
        """Write decisions to Redis, for ever; nobody waits for it."""
        milliseconds = round(self._seconds * 1000)
        while True:
            batch = await self._to_write.get()
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for key, value in batch:
                        pipe.set(key, value, px=milliseconds)
                    await pipe.execute()
            except (RedisError, OSError) as error:
                self._failed(error)

    async def _fetch(self, gallery: Snapshot, tracks: Sequence[Track]) -> list[People]:
        """What Redis has; nobody, for all, when it does not answer in time."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                values = await self._redis.mget([_key(gallery.store, track) for track in tracks])
        except (RedisError, OSError) as error:  # asyncio's TimeoutError is an OSError
            self._failed(error)
            return [_NOBODY] * len(tracks)
        now, today = time.monotonic(), time.time()
        found: list[People] = []
        for track, value in zip(tracks, values, strict=True):
            people, ends = _parse(gallery, value)
            # Somebody else's decision does not get older here than it would there.
            seconds = min(self._seconds, ends - today) if people else self._seconds
            self._remember(track, _Decision(people, gallery.serial, now + seconds))
            found.append(people)
        return found

    def _remember(self, track: Track, decision: _Decision) -> None:
        local = self._local
        local.pop(track, None)
        local[track] = decision
        if len(local) > self._tracks:
            del local[next(iter(local))]

    def _failed(self, error: Exception) -> None:
        metrics.DECISION_ERRORS.inc()
        if time.monotonic() >= self._avoid_redis_until:
            _log.warning("decisions_unreachable", error=type(error).__name__)
        self._avoid_redis_until = time.monotonic() + _PAUSE_SECONDS


def _key(store: str, track: Track) -> str:
    return f"poi:{{{store}}}:decision:{track.camera.rpartition('/')[2]}:{track.object_id}"


def _parse(gallery: Snapshot, value: object) -> tuple[People, float]:
    """The persons in a value of Redis, if decided with this revision of the gallery, and when that ends (epoch)."""
    if not isinstance(value, bytes):
        return _NOBODY, 0.0
    revision, ends, *poi_ids = value.decode("ascii").split(" ")
    if revision != str(gallery.revision):
        return _NOBODY, 0.0
    people = [gallery.person(poi_id) for poi_id in poi_ids]
    return tuple(person for person in people if person is not None), int(ends) / 1000
