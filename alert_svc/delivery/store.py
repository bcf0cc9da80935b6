"""Targets in Redis, how far each has got, and what became of its deliveries.

Of a store: `poi:{store}:targets` (hash: id -> Target, secrets included, sealed where there is a vault). Of a target,
with the prefix `poi:{store}:target:{target}`: the prefix itself (hash: cursor, failures, error, success), `/owner` (the
lease of whoever delivers), `/records` (hash: delivery id -> Delivery), and sorted sets of delivery ids: `/recent`,
`/dead` (dead letters, which are not in recent) and `/replay` (dead letters to deliver again, which are also in recent).
A delivery's id is the place of its event in the log, so that ids sort as events happened. Alerts themselves stay in the
log alone: what is erased there is erased.

Two keys are of no store: `poi:{targets}:stores` (set of stores that have targets) and `poi:{targets}:changes` (stream
that tells all servers that something changed). All scripts bear being run twice. Redis 6.2 or later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Iterable
from typing import Any, Final, NamedTuple

import structlog
from poi.v1 import delivery_pb2

from alert_svc.delivery import scripts
from mesh import names, tail
from mesh.errors import Aborted, AlreadyExists, NotFound
from mesh.redis import Redis
from mesh.tail import StreamTail
from mesh.vault import PLAIN, Box, Unopenable
from mesh.vault.resealing import SealedHash

_log = structlog.get_logger(__name__)
_STORES: Final = "poi:{targets}:stores"
_CHANGES: Final = "poi:{targets}:changes"
_KEEP_CHANGES_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_LAST_SEQUENCE: Final = (1 << 64) - 1


class LeaseLost(Exception):
    """Somebody else delivers to the target now, or it is gone."""


class Progress(NamedTuple):
    """How far a target has got. `cursor`: all of the log up to there is done with; `success_ms`: 0 for never."""

    cursor: str
    failures: int
    error: str
    success_ms: int
    dead: int


class TargetStore:
    """The targets of all stores in one Redis."""

    def __init__(self, redis: Redis, *, retention_days: float, keep: int, heartbeat: float, box: Box = PLAIN) -> None:
        """`keep`: deliveries remembered of a target, besides dead letters. `heartbeat`: seconds, see `changes`.
        `box` seals targets: their secrets let somebody in elsewhere."""
        self.redis, self._box = redis, box
        self._retention_ms, self._keep = round(retention_days * _DAY_MS), keep
        self._changes = StreamTail(redis, _CHANGES, heartbeat=heartbeat)
        self._create, self._change, self._delete, self._settle, self._replay = (
            redis.register_script(script)
            for script in (scripts.CREATE, scripts.CHANGE, scripts.DELETE, scripts.SETTLE, scripts.REPLAY)
        )

    async def create(self, target: delivery_pb2.Target, cursor: str) -> None:
        """Keeps a new target, which begins after `cursor`. Raises AlreadyExists."""
        store_id, target_id = names.parse_target(target.name)
        # A store too many in the set does no harm; one too few would have targets that nobody delivers to.
        await _async(self.redis.sadd(_STORES, store_id))
        base = _base(store_id, target_id)
        arguments: list[str | bytes] = [target_id, self._sealed(target), cursor]
        if not await self._create(keys=[_targets(store_id), base], args=arguments):
            raise AlreadyExists(target.name)
        await self.announce(target.name)

    async def get(self, name: str) -> delivery_pb2.Target:
        """The target, secrets included. Raises InvalidArgument, NotFound, mesh.vault.Unopenable."""
        store_id, target_id = names.parse_target(name)
        return self._opened(store_id, target_id, await self._kept(store_id, target_id))

    async def change(self, before: delivery_pb2.Target, after: delivery_pb2.Target, cursor: str = "") -> None:
        """Replaces a target, which begins after `cursor` where that is given. Raises NotFound, Aborted."""
        store_id, target_id = names.parse_target(before.name)
        arguments: list[str | bytes] = [
            target_id,
            await self._as_kept(before),
            self._sealed(after),
            cursor,
        ]
        if not await self._change(keys=[_targets(store_id), _base(store_id, target_id)], args=arguments):
            raise Aborted("the target has changed: read it again", reason="ETAG_MISMATCH")
        await self.announce(before.name)

    async def delete(self, target: delivery_pb2.Target) -> None:
        """Removes a target and all that is known of its deliveries. Raises Aborted."""
        store_id, target_id = names.parse_target(target.name)
        keys = [_targets(store_id), *_all_keys(store_id, target_id)]
        if not await self._delete(keys=keys, args=[target_id, await self._as_kept(target)]):
            raise Aborted("the target has changed: read it again", reason="ETAG_MISMATCH")
        await self.announce(target.name)

    async def of_store(self, store_id: str) -> list[delivery_pb2.Target]:
        """The targets of a store by id, secrets included. One that cannot be opened keeps no other from delivery."""
        kept: dict[bytes, bytes] = await _async(self.redis.hgetall(_targets(store_id)))
        targets = []
        for raw_id, value in sorted(kept.items()):
            try:
                targets.append(self._opened(store_id, raw_id.decode("ascii"), value))
            except Unopenable as error:
                _log.error("target_unreadable", store=store_id, target=raw_id.decode("ascii"), error=str(error))
        return targets

    async def everywhere(self) -> list[delivery_pb2.Target]:
        """The targets of all stores."""
        stores: set[bytes] = await _async(self.redis.smembers(_STORES))
        return [target for store in sorted(stores) for target in await self.of_store(store.decode("ascii"))]

    async def sealed_hashes(self) -> list[SealedHash]:
        """Where in Redis targets lie."""
        stores: set[bytes] = await _async(self.redis.smembers(_STORES))
        return [SealedHash(_targets(store), store, _context) for store in sorted(one.decode("ascii") for one in stores)]

    async def announce(self, name: str, *, works: bool = False) -> None:
        """Tells all servers to look at a target anew; `works`: it has just taken a message."""
        await self.redis.xadd(_CHANGES, {"target": name, "works": str(int(works))})
        await tail.trim(self.redis, _CHANGES, time.time_ns() // 1_000_000 - _KEEP_CHANGES_MS)

    async def changes(self) -> AsyncGenerator[tuple[str, bool] | None, None]:
        """What is announced from now on, as (name, works); None at first and at each heartbeat."""
        entries = self._changes.entries(None)
        try:
            async for entry in entries:
                yield (entry[1][b"target"].decode(), entry[1][b"works"] == b"1") if entry else None
        finally:
            await entries.aclose()

    async def progress(self, name: str) -> Progress:
        """How far the target has got."""
        keys = _all_keys(*names.parse_target(name))
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hmget(keys[0], ["cursor", "failures", "error", "success"])
            pipe.zcard(keys[4])
            (cursor, failures, error, success), dead = await pipe.execute()
        text = (error or b"").decode()
        return Progress((cursor or b"0-0").decode("ascii"), int(failures or 0), text, int(success or 0), int(dead))

    async def settle(
        self,
        name: str,
        token: str,
        cursor: str,
        delivery: delivery_pb2.Delivery | None = None,
        *,
        failures: int = 0,
    ) -> None:
        """Writes how a delivery went, and that the target has got to `cursor` ("" for where it is already).

        Raises LeaseLost where `token` is not that of the target's owner.
        """
        arguments: list[str | bytes | int] = [token, cursor]
        if delivery is not None:
            now_ms = time.time_ns() // 1_000_000
            oldest = delivery_id(f"{max(0, now_ms - self._retention_ms)}-0")
            member = names.parse_delivery(delivery.name)[2]
            record = delivery.SerializeToString(deterministic=True)
            state = int(delivery.state)
            arguments += [member, record, state, failures, delivery.last_error, now_ms, self._keep, oldest]
        keys = _all_keys(*names.parse_target(name))
        if await self._settle(keys=keys, args=arguments) == -1:
            raise LeaseLost(name)

    async def forget(self, name: str, token: str, cursor: str, delivery: str) -> None:
        """Removes a delivery whose event is gone, and moves on to `cursor` ("" for where the target is already).

        Raises LeaseLost.
        """
        await self.settle(name, token, cursor)
        await self._drop(*names.parse_target(name), [names.parse_delivery(delivery)[2]])

    async def of_alerts(self, target: str, alerts: Collection[str]) -> list[delivery_pb2.Delivery]:
        """What is known of the deliveries of these alerts to a target."""
        records = _all_keys(*names.parse_target(target))[2]
        kept: dict[bytes, bytes] = await _async(self.redis.hgetall(records)) if alerts else {}
        found = [delivery_pb2.Delivery.FromString(value) for value in kept.values()]
        return [each for each in found if each.alert in alerts]

    async def drop(self, target: str, deliveries: Iterable[delivery_pb2.Delivery]) -> None:
        """Removes all that is known of these deliveries."""
        members = [names.parse_delivery(each.name)[2] for each in deliveries]
        if members:
            await self._drop(*names.parse_target(target), members)

    async def _drop(self, store_id: str, target_id: str, members: list[str]) -> None:
        _, _, records, *places = _all_keys(store_id, target_id)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hdel(records, *members)
            for place in places:
                pipe.zrem(place, *members)
            await pipe.execute()

    async def record(self, name: str) -> delivery_pb2.Delivery | None:
        """What is known of a delivery."""
        store_id, target_id, member = names.parse_delivery(name)
        kept: bytes | None = await _async(self.redis.hget(_all_keys(store_id, target_id)[2], member))
        return delivery_pb2.Delivery.FromString(kept) if kept is not None else None

    async def deliveries(
        self, name: str, before: str, limit: int, *, dead_only: bool = False, dead: bool = True
    ) -> list[delivery_pb2.Delivery]:
        """At most `limit` deliveries, newest first, older than the id `before` ("" for the newest)."""
        _, _, records, recent_key, dead_key, _ = _all_keys(*names.parse_target(name))
        found: list[bytes] = []
        for key, wanted in ((recent_key, not dead_only), (dead_key, dead or dead_only)):
            if wanted:
                members: Any = await self.redis.zrevrangebylex(
                    key, f"({before}" if before else "+", "-", start=0, num=limit
                )
                found += members
        chosen = sorted(set(found), reverse=True)[:limit]
        kept: Any = await _async(self.redis.hmget(records, [str(each, "ascii") for each in chosen])) if chosen else []
        return [delivery_pb2.Delivery.FromString(value) for value in kept if value is not None]

    async def replay(self, name: str, deliveries: Iterable[delivery_pb2.Delivery]) -> int:
        """Takes dead letters back into delivery; how many of these were still dead ones."""
        arguments: list[str | bytes] = []
        for each in deliveries:
            again = delivery_pb2.Delivery()
            again.CopyFrom(each)
            again.state, again.attempt_count = delivery_pb2.DELIVERY_STATE_REPLAYING, 0
            member = names.parse_delivery(each.name)[2]
            arguments += [
                member,
                each.SerializeToString(deterministic=True),
                again.SerializeToString(deterministic=True),
            ]
        if not arguments:
            return 0
        count: int = await self._replay(keys=_all_keys(*names.parse_target(name))[2:], args=arguments)
        await self.announce(name)
        return count

    async def next_replay(self, name: str) -> str:
        """The cursor of the oldest event that waits to be replayed, "" for none."""
        waiting: Any = await self.redis.zrange(_all_keys(*names.parse_target(name))[5], 0, 0)
        return cursor_of(waiting[0].decode("ascii")) if waiting else ""

    def _sealed(self, target: delivery_pb2.Target) -> bytes:
        store_id, target_id = names.parse_target(target.name)
        return self._box.seal(store_id, target.SerializeToString(deterministic=True), _context(target_id))

    def _opened(self, store_id: str, target_id: str, kept: bytes) -> delivery_pb2.Target:
        return delivery_pb2.Target.FromString(self._box.open(store_id, kept, _context(target_id)))

    async def _as_kept(self, target: delivery_pb2.Target) -> bytes:
        """The bytes that are kept of it; none when it is not as it was, or is gone."""
        store_id, target_id = names.parse_target(target.name)
        kept: bytes | None = await _async(self.redis.hget(_targets(store_id), target_id))
        return kept if kept is not None and self._opened(store_id, target_id, kept) == target else b""

    async def _kept(self, store_id: str, target_id: str) -> bytes:
        kept: bytes | None = await _async(self.redis.hget(_targets(store_id), target_id))
        if kept is None:
            raise NotFound(names.target(store_id, target_id))
        return kept


def _context(target_id: str) -> bytes:
    return b"target/" + target_id.encode()


def delivery_id(cursor: str) -> str:
    """The id of the delivery of the event at `cursor`: sorts as a text in the order of the log."""
    milliseconds, _, sequence = cursor.partition("-")
    return f"{int(milliseconds):014d}-{int(sequence):06d}"


def cursor_of(delivery: str) -> str:
    """The cursor of a delivery's event."""
    milliseconds, _, sequence = delivery.partition("-")
    return f"{int(milliseconds)}-{int(sequence)}"


def just_before(cursor: str) -> str:
    """The cursor after which the event at `cursor` comes first."""
    milliseconds, _, sequence = cursor.partition("-")
    if int(sequence):
        return f"{milliseconds}-{int(sequence) - 1}"
    return f"{max(0, int(milliseconds) - 1)}-{_LAST_SEQUENCE}"


def is_after(cursor: str, other: str) -> bool:
    """Whether the event at `cursor` comes after that at `other`."""
    return _parts(cursor) > _parts(other)


def owner_key(name: str) -> str:
    """Where the lease of a target is kept."""
    return _all_keys(*names.parse_target(name))[1]


def _parts(cursor: str) -> tuple[int, int]:
    milliseconds, _, sequence = cursor.partition("-")
    return int(milliseconds), int(sequence)


def _targets(store_id: str) -> str:
    return f"poi:{{{store_id}}}:targets"


def _base(store_id: str, target_id: str) -> str:
    return f"poi:{{{store_id}}}:target:{target_id}"


def _all_keys(store_id: str, target_id: str) -> list[str]:
    base = _base(store_id, target_id)
    # An id may hold colons: what follows the prefix must not look like an id's end.
    return [base, *(f"{base}/{part}" for part in ("owner", "records", "recent", "dead", "replay"))]


async def _async(answer: Any) -> Any:
    """Commands of the client are typed as answering at once or later."""
    return await answer
