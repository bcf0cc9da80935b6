"""Erasures in Redis: names and counts, nothing biometric.

Of a store: `poi:{store}:personErasure:<id>` (hash: `erasure`, a PersonErasure; `request`, a digest of whom it was asked
for; `subject`, a TraceSubject until it is done), `poi:{store}:personErasures` (sorted set: id by when it began, ms) and
`poi:{store}:erasurePlan:<plan>` (erasure and subject of a plan, for a week). `poi:personErasures:open` is the set of
"<store> <id>" that are not done.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

from poi.v1 import erasure_pb2

from mesh import names
from mesh.redis import Redis

OPEN: Final = "poi:personErasures:open"
_PLAN_SECONDS: Final = 7 * 86_400
_PAGE: Final = 1000

# KEYS erasure, index; ARGV the erasure, the subject, ms, id, request. Answers whether it was new.
_BEGIN: Final = """
if redis.call('HSETNX', KEYS[1], 'erasure', ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'subject', ARGV[2], 'request', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
return 1
"""
# KEYS erasure; ARGV the erasure, done or not. One that is done stays as it is: it has its receipt.
_END: Final = """
if redis.call('HEXISTS', KEYS[1], 'subject') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'erasure', ARGV[1])
if ARGV[2] == '1' then redis.call('HDEL', KEYS[1], 'subject') end
return 1
"""
# KEYS erasure; ARGV the subject. Another server may be done with it, and then nothing of the person is to be kept.
_ADD: Final = """
if redis.call('HEXISTS', KEYS[1], 'subject') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'subject', ARGV[1])
return 1
"""


class Kept(NamedTuple):
    """An erasure, or a plan."""

    erasure: erasure_pb2.PersonErasure
    subject: erasure_pb2.TraceSubject | None
    """None once it is done."""
    request: str = ""
    """Digest of whom it was asked for; "" of a plan."""


class Erasures:
    """All of them, in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._begin, self._end = redis.register_script(_BEGIN), redis.register_script(_END)
        self._add = redis.register_script(_ADD)

    async def keep_plan(self, store: str, plan: erasure_pb2.PersonErasure, subject: erasure_pb2.TraceSubject) -> None:
        """For a week."""
        key = _plan_key(store, plan.plan)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping={"erasure": plan.SerializeToString(), "subject": subject.SerializeToString()})
            pipe.expire(key, _PLAN_SECONDS)
            await pipe.execute()

    async def plan(self, store: str, token: str) -> Kept | None:
        """A plan that was shown."""
        return await self._read(_plan_key(store, token))

    async def forget_plans(self, store: str, subject: erasure_pb2.TraceSubject) -> None:
        """Removes the plans of a person who is erased: others may have been shown, and they say what there was."""
        async for key in self._redis.scan_iter(match=_plan_key(store, "*"), count=_PAGE):
            kept = await self._read(key.decode("ascii"))
            if kept is not None and kept.subject is not None and _is_same(kept.subject, subject):
                await self._redis.delete(key)

    async def begin(
        self, erasure: erasure_pb2.PersonErasure, subject: erasure_pb2.TraceSubject, request: str = ""
    ) -> None:
        """Keeps an erasure until it is done. One that has begun already stays as it is."""
        store, own = names.parse_person_erasure(erasure.name)
        await _awaited(self._redis.sadd(OPEN, f"{store} {own}"))
        arguments: list[str | bytes | int] = [
            erasure.SerializeToString(),
            subject.SerializeToString(),
            erasure.create_time.ToMilliseconds(),
            own,
            request,
        ]
        await self._begin(keys=[_key(store, own), _index_key(store)], args=arguments)

    async def get(self, name: str) -> Kept | None:
        """How far it is. Raises InvalidArgument."""
        return await self._read(_key(*names.parse_person_erasure(name)))

    async def save(self, erasure: erasure_pb2.PersonErasure, *, token: str = "") -> bool:
        """Keeps how far it is; once it is done, nothing else. False where that was written before."""
        store, own = names.parse_person_erasure(erasure.name)
        done = erasure.state == erasure_pb2.ERASURE_STATE_DONE
        arguments: list[str | bytes] = [erasure.SerializeToString(), "1" if done else ""]
        written = bool(await self._end(keys=[_key(store, own)], args=arguments))
        if done:
            await _awaited(self._redis.srem(OPEN, f"{store} {own}"))
            await self._redis.delete(_plan_key(store, token))
        return written

    async def add(self, name: str, subject: erasure_pb2.TraceSubject) -> None:
        """Keeps what else was found of the person meanwhile, unless it is done."""
        await self._add(keys=[_key(*names.parse_person_erasure(name))], args=[subject.SerializeToString()])

    async def close(self, erasure: erasure_pb2.PersonErasure) -> None:
        """It is done: whoever wrote that may have been killed before it was taken off the open ones."""
        store, own = names.parse_person_erasure(erasure.name)
        await _awaited(self._redis.srem(OPEN, f"{store} {own}"))

    async def open(self) -> list[str]:
        """Names of those that are not done."""
        found: set[bytes] = await _awaited(self._redis.smembers(OPEN))
        pairs = sorted(raw.decode("ascii").split(" ") for raw in found)
        return [names.person_erasure(store, own) for store, own in pairs]

    async def newest(
        self, store: str, before: float | None, count: int
    ) -> list[tuple[float, erasure_pb2.PersonErasure]]:
        """At most `count` as (place, erasure), behind the place `before`, or the newest."""
        listed: Any = await self._redis.zrevrangebyscore(
            _index_key(store), "+inf" if before is None else f"({before}", "-inf", start=0, num=count, withscores=True
        )
        found = [(place, await self._read(_key(store, raw.decode("ascii")))) for raw, place in listed]
        return [(place, one.erasure) for place, one in found if one is not None]

    async def _read(self, key: str) -> Kept | None:
        kept: dict[bytes, bytes] = await _awaited(self._redis.hgetall(key))
        if b"erasure" not in kept:
            return None
        subject = kept.get(b"subject")
        return Kept(
            erasure_pb2.PersonErasure.FromString(kept[b"erasure"]),
            None if subject is None else erasure_pb2.TraceSubject.FromString(subject),
            kept.get(b"request", b"").decode("ascii"),
        )


def _is_same(one: erasure_pb2.TraceSubject, other: erasure_pb2.TraceSubject) -> bool:
    return one.poi == other.poi != "" or not set(one.appearances).isdisjoint(other.appearances)


def erasure_name(store: str, request_id: str) -> str:
    """The name of the erasure that a request makes: the same for its repeats."""
    digest = hashlib.blake2b(f"{store}\0{request_id}".encode(), digest_size=16).hexdigest()
    return names.person_erasure(store, digest)


def _key(store: str, own: str) -> str:
    return f"poi:{{{store}}}:personErasure:{own}"


def _index_key(store: str) -> str:
    return f"poi:{{{store}}}:personErasures"


def _plan_key(store: str, token: str) -> str:
    return f"poi:{{{store}}}:erasurePlan:{token}"


async def _awaited(answer: Any) -> Any:
    """Commands of the client are typed as answering at once or later."""
    return await answer
