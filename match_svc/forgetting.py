"""Deletes for good whom nobody may keep any longer: persons whose expiry lies back by more than the grace period.

Each goes by the path of DeletePoi, with an audit record before and one after. The galleries say who is due, the record
in the registry decides: whoever was given a new end meanwhile stays. Replicas take turns by a lock

    poi:{gallery}:forgetting   string: the replica that is at it, for some seconds from its last sign of life

that only saves them from doing the same twice. Nothing is kept of a pass: after a crash the next one finds who is left.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import structlog
from redis.asyncio.lock import Lock
from redis.exceptions import RedisError

from match_svc import metrics
from match_svc.follower import Follower
from match_svc.people import Person, lapse
from match_svc.registry import Registry
from match_svc.replicas import Replicas
from mesh import audit, names
from mesh.errors import Aborted, MeshError, NotFound, Unavailable
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

ACTION: Final = "match.PersonForgotten"
LOCK: Final = "poi:{gallery}:forgetting"
MANY, MANY_SHARE = 100, 0.1
"""More than so many persons, and than this share of a store's gallery, at once look like a wrong clock or a wrong list:
they go slowly, so that somebody who reads the log can stop it."""
MANY_PER_SECOND: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 15.0
_LOCK_SECONDS: Final = 10.0
"""For one person, beyond the wait for replicas; then another replica goes on."""
_APART_SECONDS: Final = 60.0


class _Due(NamedTuple):
    store: str
    people: list[Person]
    many: bool


class Forgetter:
    """The part of one replica in it."""

    def __init__(
        self,
        redis: Redis,
        registry: Registry,
        follower: Follower,
        replicas: Replicas,
        *,
        after_days: float,
        confirm_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`after_days`: the grace period. `confirm_seconds`: longest wait for all replicas to have a removal. `clock`:
        seconds since 1970, believed only as far as Redis's own goes."""
        self._redis, self._registry, self._follower, self._replicas = redis, registry, follower, replicas
        self._grace = after_days * 86_400
        self._confirm_seconds = confirm_seconds
        self._clock = clock
        self._apart = False

    async def run(self) -> None:
        """Forget who is due, for ever."""
        while True:
            try:
                done = await self.forget()
            except (RedisError, OSError, Unavailable) as error:
                _log.warning("forgetting_interrupted", error=type(error).__name__)
                done = False
            await asyncio.sleep(_LOOK_SECONDS if done else _RETRY_SECONDS)

    async def forget(self) -> bool:
        """Forget who is due now, unless another replica is at it; False when somebody could not be forgotten.

        Raises what redis raises, and Unavailable where audit records cannot be written.
        """
        # Not in the event loop: while many go slowly, it is all of them each time.
        if not await asyncio.to_thread(self._due, self._clock() - self._grace):
            return True
        due = await asyncio.to_thread(self._due, await self._before())
        if not due:
            return True
        seconds = _LOCK_SECONDS + self._confirm_seconds
        lock = self._redis.lock(LOCK, timeout=seconds, blocking=False)
        if not await lock.acquire():
            return True
        try:
            # Slow ones last: they must not keep the others.
            return all([await self._forget_all(each, lock) for each in sorted(due, key=lambda one: one.many)])
        finally:
            with suppress(RedisError):
                await lock.release()

    def _due(self, before: float) -> list[_Due]:
        found = []
        for store in self._follower.stores:
            gallery = self._follower.gallery(store)
            if people := gallery.to_forget(before):
                many = len(people) > MANY and len(people) > gallery.size * MANY_SHARE
                found.append(_Due(store, people, many))
        return found

    async def _before(self) -> float:
        """Whose time ran out before that is to be forgotten: by our clock, and by Redis's."""
        seconds, micros = await self._redis.time()
        own, other = self._clock(), seconds + micros / 1e6
        apart = abs(own - other) > _APART_SECONDS
        if apart and not self._apart:
            _log.warning("clocks_apart", ahead_of_redis_seconds=round(own - other))
        self._apart = apart
        return min(own, other) - self._grace

    async def _forget_all(self, due: _Due, lock: Lock) -> bool:
        if due.many:
            persons = self._follower.gallery(due.store).size
            _log.warning(
                "forgetting_many", store=due.store, due=len(due.people), persons=persons, per_second=MANY_PER_SECOND
            )
        forgotten = failed = 0
        for person in due.people:
            await lock.reacquire()
            try:
                forgotten += await self._forget(due.store, person.poi_id)
            except Unavailable:
                raise
            except MeshError as error:
                failed += 1
                _log.error("person_not_forgotten", store=due.store, poi_id=person.poi_id, reason=error.reason)
            if due.many:
                await asyncio.sleep(1 / MANY_PER_SECOND)
        if forgotten:
            _log.info("people_forgotten", store=due.store, persons=forgotten)
        return not failed

    async def _forget(self, store: str, poi_id: str) -> bool:
        """Delete a person if they are still due; whether they were."""
        try:
            poi = await self._registry.get(store, poi_id)
        except NotFound:
            return False
        if lapse(poi) > await self._before():
            return False
        call = uuid.uuid4().hex
        name = names.poi(store, poi_id)
        await audit.record(ACTION, name, "", call_id=call, reason="expired")
        try:
            revision = await self._registry.delete(store, poi_id, poi.etag)
        except (Aborted, NotFound) as error:  # somebody came between, perhaps with a new end
            await audit.record(ACTION, name, error.code.name, call_id=call, durable=False, reason="expired")
            return False
        metrics.FORGOTTEN.labels(store).inc()
        await self._replicas.confirmed(revision, self._confirm_seconds)
        await audit.record(ACTION, name, "OK", call_id=call, durable=False, reason="expired")
        return True
