"""What is refused: a record of each reason in Redis, and the message itself on the dead-letter topic.

A broken camera refuses ten messages a second: records are trimmed by number, and a message tells its first problems
only.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import prometheus_client
import structlog
from poi.v1 import ingest_pb2
from redis.exceptions import RedisError

from ingest_svc.rejections import Problem
from mesh import names
from mesh.errors import InvalidArgument
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

_REJECTIONS = prometheus_client.Counter(
    "poi_ingest_rejections", "Messages, or parts of them, that were refused.", ["reason"]
)
_KEEP = 10_000
_QUEUE = 10_000
_PROBLEMS_A_MESSAGE = 20
_LARGEST_PAYLOAD = 262_144


@dataclass(frozen=True, slots=True)
class _Record:
    topic: str
    time_ms: int
    problem: Problem
    size: int

    def fields(self) -> dict[Any, Any]:
        problem = self.problem
        return {
            "topic": self.topic,
            "time": self.time_ms,
            "reason": problem.reason,
            "field": problem.field,
            "message": problem.message,
            "size": self.size,
        }


class DeadLetters:
    """Keeps what was refused. `run` must be running."""

    def __init__(
        self, redis: Redis, store: str, publish: Callable[[str, bytes, int], bool], dead_letter_topic: str
    ) -> None:
        """`publish(topic, payload, qos)` sends to the broker; an empty `dead_letter_topic` sends nothing."""
        self._redis = redis
        self._store = store
        self._key = f"poi:{{{store}}}:rejections"
        self._publish = publish
        self._dead_letter_topic = dead_letter_topic
        self._queue: asyncio.Queue[_Record] = asyncio.Queue(_QUEUE)
        self.count = 0
        """Problems so far."""

    def refuse(self, topic: str, problems: Sequence[Problem], payload: bytes | None) -> None:
        """Parts of a message, or all of it, were refused; `payload` is the message, where it is still at hand."""
        now_ms = time.time_ns() // 1_000_000
        self.count += len(problems)
        size = len(payload) if payload is not None else 0
        for problem in problems:
            _REJECTIONS.labels(problem.reason).inc()
        for problem in problems[:_PROBLEMS_A_MESSAGE]:
            if not self._queue.full():  # Redis is away: the metric has them all, the log their number
                self._queue.put_nowait(_Record(topic, now_ms, problem, size))
        if self._dead_letter_topic and payload is not None:
            letter = {
                "topic": topic,
                "time_ms": now_ms,
                "size_bytes": size,
                "problems": [
                    {"reason": problem.reason, "field": problem.field, "message": problem.message}
                    for problem in problems[:_PROBLEMS_A_MESSAGE]
                ],
                "payload_base64": base64.b64encode(payload).decode() if size <= _LARGEST_PAYLOAD else None,
            }
            self._publish(self._dead_letter_topic, orjson.dumps(letter), 1)

    async def run(self) -> None:
        """Write the records to Redis, for ever."""
        while True:
            records = [await self._queue.get()]
            while not self._queue.empty() and len(records) < 500:
                records.append(self._queue.get_nowait())
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for record in records:
                        pipe.xadd(self._key, record.fields(), maxlen=_KEEP, approximate=True)
                    await pipe.execute()
            except RedisError as error:
                _log.warning("rejections_not_stored", number=len(records), error=type(error).__name__)
                await asyncio.sleep(1.0)

    async def page(self, before: str, size: int) -> list[ingest_pb2.Rejection]:
        """The newest rejections that are older than the id `before` (any when empty)."""
        try:
            entries: Any = await self._redis.xrevrange(
                self._key, max=f"({before}" if before else "+", min="-", count=size
            )
        except RedisError as error:
            if before and "Invalid stream ID" in str(error):
                raise InvalidArgument(violations=[("page_token", "is not a page token")]) from None
            raise
        return [self._rejection(entry_id.decode(), fields) for entry_id, fields in entries]

    def _rejection(self, entry_id: str, fields: dict[bytes, bytes]) -> ingest_pb2.Rejection:
        rejection = ingest_pb2.Rejection(
            name=f"{names.store(self._store)}/rejections/{entry_id}",
            topic=fields[b"topic"].decode(),
            reason=fields[b"reason"].decode(),
            field=fields[b"field"].decode(),
            message=fields[b"message"].decode(),
            size_bytes=int(fields[b"size"]),
        )
        rejection.reject_time.FromMilliseconds(int(fields[b"time"]))
        return rejection
