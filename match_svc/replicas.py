"""Which replicas there are, what each has of the registry, and whether this one is fit to match.

A replica's heartbeat is one script that notes its revision and measures its lag, all by Redis's own clock:

    poi:{gallery}:replicas   hash: replica -> "<revision> <when, ms> <lag, ms>"
    poi:{gallery}:confirmed  channel: "<replica> <revision>" with each heartbeat, which comes at once after a change

A removal waits for all whose heartbeat is not older than `replica_seconds`. So a replica that Redis has not heard for
so long does not serve: it may no longer be waited for. It serves again once it has all that was there when it came
back.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog
from redis.exceptions import RedisError

from match_svc import metrics
from match_svc.registry import LOG, REVISION
from mesh.errors import Unavailable
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

REPLICAS: Final = "poi:{gallery}:replicas"
_CONFIRMED: Final = "poi:{gallery}:confirmed"
_BEAT_SECONDS: Final = 0.25
_FORGET_SECONDS: Final = 60.0
"""A silent replica is listed for so long."""
_READY_WAIT_SECONDS: Final = 4.0
"""What a call waits for the first load: less than clients' usual deadline of 5 s, so that they learn why."""

# The lag is the age of the first entry of the log that the replica does not have; -1 when the log no longer has it.
_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local current = tonumber(redis.call('GET', KEYS[3]) or '0')
local lag = 0
if current ~= tonumber(ARGV[2]) then
  local missing = redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], '+', 'COUNT', 1)[1]
  lag = missing and math.max(1, now - tonumber(string.match(missing[1], '^%d+'))) or -1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now) .. ' ' .. lag)
redis.call('PUBLISH', ARGV[4], ARGV[1] .. ' ' .. ARGV[2])
return {current, lag}
"""


class Replica(NamedTuple):
    """A replica as its last heartbeat told."""

    id: str
    revision: int
    age_seconds: float
    """Of the heartbeat."""
    lag_seconds: float
    """When it was sent."""


class Confirmation(NamedTuple):
    """Who has a revision, of those that are alive."""

    confirmed: list[str]
    missing: list[str]


class Replicas:
    """This replica among the others."""

    def __init__(
        self,
        redis: Redis,
        have: Callable[[], tuple[int, bytes]],
        *,
        replica_seconds: float,
        max_lag_seconds: float,
        on_serving: Callable[[bool], None],
    ) -> None:
        """`have` says revision (-1 before the first load) and position in the log that this replica's galleries have.

        `on_serving` is told whenever this replica becomes fit to match, or unfit.
        """
        self.id = f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self._redis = redis
        self._have = have
        self._replica_seconds = replica_seconds
        self._max_lag_seconds = max_lag_seconds
        self._on_serving = on_serving
        self._beat = redis.register_script(_BEAT)
        self._due = asyncio.Event()
        self._serving = False
        self._ready = asyncio.Event()
        self._heard = -float("inf")
        """When the last heartbeat was sent that Redis took."""
        self._needed: int | None = None
        """The revision to have before serving; None until a heartbeat of this spell was taken."""
        self._lost_since: float | None = None
        self._lag = 0.0
        self._seen: dict[str, int] = {}
        self._confirming = asyncio.Condition()

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest change that this replica does not have, as of the last heartbeat."""
        return self._lag

    @property
    def serving(self) -> bool:
        """Whether this replica is fit to match."""
        return self._serving

    async def wait_ready(self) -> None:
        """Return once this replica has been fit to match. Raises Unavailable when that takes longer than a call can
        wait."""
        if self._ready.is_set():
            return
        try:
            async with asyncio.timeout(_READY_WAIT_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise Unavailable("the gallery is being loaded", reason="GALLERY_LOADING", retry_after=1.0) from None

    def changed(self) -> None:
        """Say that the galleries have another revision: it is confirmed at once."""
        self._due.set()

    async def run(self) -> None:
        """Send heartbeats, for ever."""
        while True:
            self._due.clear()
            if self._have()[0] >= 0:
                await self._send()
                self._judge()
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def listen(self) -> None:
        """Follow what other replicas confirm, for ever."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(_CONFIRMED)
                    async for message in channel.listen():
                        await self._note(message["data"])
            except (RedisError, OSError):
                await asyncio.sleep(_BEAT_SECONDS)  # heartbeats come again, so nothing is missed

    async def confirmed(self, revision: int, seconds: float) -> Confirmation:
        """Return when every live replica has this revision, or after so many seconds; who has it, and who has not.

        Raises what redis raises when Redis cannot be reached.
        """
        alive = [one for one in await self.all() if one.age_seconds <= self._replica_seconds]
        waiting = [one.id for one in alive if one.revision < revision]
        if waiting:
            try:
                async with asyncio.timeout(seconds), self._confirming:
                    await self._confirming.wait_for(lambda: all(self._seen.get(one, -1) >= revision for one in waiting))
                waiting = []
            except TimeoutError:
                now_alive = [one for one in await self.all() if one.age_seconds <= self._replica_seconds]
                alive, waiting = now_alive, [one.id for one in now_alive if one.revision < revision]
        if waiting:
            metrics.UNCONFIRMED.inc()
            _log.warning("removal_unconfirmed", revision=revision, replicas=waiting)
        return Confirmation([one.id for one in alive if one.id not in waiting], waiting)

    async def all(self) -> list[Replica]:
        """Every replica that was heard of within a minute, by id."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(REPLICAS)
            pipe.time()
            noted, (seconds, micros) = await pipe.execute()
        now = seconds + micros / 1e6
        found = [_parsed(replica, value, now) for replica, value in noted.items()]
        forgotten = [one.id for one in found if one.age_seconds > _FORGET_SECONDS]
        if forgotten:
            await self._redis.hdel(REPLICAS, *forgotten)
        known = sorted(one for one in found if one.id not in forgotten)
        self._seen = {one.id: self._seen[one.id] for one in known if one.id in self._seen}
        return known

    async def leave(self) -> None:
        """Say that this replica is gone, so that nobody waits for it."""
        try:
            await self._redis.hdel(REPLICAS, self.id)
        except (RedisError, OSError):
            _log.warning("replica_left_unheard")  # it is not waited for once its heartbeat is old

    async def _send(self) -> None:
        revision, position = self._have()
        sent = time.monotonic()
        if sent - self._heard > self._replica_seconds:
            self._needed = None  # changes may have been answered without waiting for us
        try:
            async with asyncio.timeout(self._replica_seconds / 2):
                answer: Any = await self._beat(
                    keys=[REPLICAS, LOG, REVISION], args=[self.id, revision, position or b"0-0", _CONFIRMED]
                )
        except (RedisError, OSError):
            return
        current, lag = answer
        self._heard = sent
        self._needed = current if self._needed is None else min(self._needed, current)  # less after a reset
        if lag >= 0:
            self._lost_since = None
            self._lag = lag / 1000
        else:
            self._lost_since = self._lost_since or sent
            self._lag = max(self._lag, time.monotonic() - self._lost_since)
        metrics.LAG.set(self._lag)

    def _judge(self) -> None:
        """Fit to match is who was heard of lately, is not behind, and has all that others did not wait for."""
        silent = time.monotonic() - self._heard > self._replica_seconds
        complete = self._needed is not None and self._have()[0] >= self._needed
        serving = complete and not silent and self._lag <= self._max_lag_seconds
        if serving != self._serving:
            self._serving = serving
            note = _log.info if serving else _log.warning
            note("replica_fit" if serving else "replica_unfit", silent=silent, lag_seconds=round(self._lag, 3))
            self._on_serving(serving)
            if serving:
                self._ready.set()

    async def _note(self, data: bytes) -> None:
        replica, _, revision = data.decode().rpartition(" ")
        async with self._confirming:
            self._seen[replica] = int(revision)
            self._confirming.notify_all()


def _parsed(replica: bytes, value: bytes, now: float) -> Replica:
    revision, when, lag = (int(part) for part in value.split(b" "))
    # A replica whose missing changes the log no longer has is loading anew: it has lagged since it was last fine.
    return Replica(replica.decode(), revision, max(0.0, now - when / 1000), max(0, lag) / 1000)
