"""Cameras' signs of life, in Redis, so that every replica can tell of all cameras.

A hash for each camera holds counts of all replicas, and each replica's rate with the time it was measured; a set
holds the cameras of a store. Counting costs a few dictionary operations a message; Redis sees one pipeline a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog
from poi.v1 import ingest_pb2
from redis.exceptions import RedisError

from mesh import names
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

_FLUSH_SECONDS = 1.0
_RATE_SECONDS = 10
_KEEP_SECONDS = 30 * 24 * 3600
_MOST_CAMERAS = 10_000


@dataclass(slots=True)
class _Counts:
    messages: int = 0
    detections: int = 0
    last_seen_ms: int = 0
    last_detect_ms: int = 0
    history: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_RATE_SECONDS))


class Presence:
    """Counts what cameras send. `run` must be running."""

    def __init__(self, redis: Redis, store: str, replica: str) -> None:
        self._redis = redis
        self._store = store
        self._replica = replica
        self._counts: dict[str, _Counts] = {}

    def seen(self, camera_id: str, detect_ms: int, detections: int) -> None:
        """A message of a camera was read."""
        counts = self._counts.get(camera_id)
        if counts is None:
            if len(self._counts) >= _MOST_CAMERAS:
                return
            counts = self._counts[camera_id] = _Counts()
        counts.messages += 1
        counts.detections += detections
        counts.last_seen_ms = time.time_ns() // 1_000_000
        counts.last_detect_ms = detect_ms

    async def run(self) -> None:
        """Tell Redis once a second, for ever."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self._flush()
            except RedisError as error:
                _log.warning("presence_not_stored", error=type(error).__name__)

    async def cameras(self) -> AsyncIterator[ingest_pb2.Camera]:
        """The cameras of the store, by name."""
        now_ms = time.time_ns() // 1_000_000
        ids = sorted(_text(item) for item in await self._redis.smembers(self._set_key))
        for start in range(0, len(ids), 100):
            async with self._redis.pipeline(transaction=False) as pipe:
                page = ids[start : start + 100]
                for camera_id in page:
                    pipe.hgetall(self._camera_key(camera_id))
                for camera_id, fields in zip(page, await pipe.execute(), strict=True):
                    if fields:
                        yield self._camera(camera_id, fields, now_ms)

    def _camera(self, camera_id: str, fields: dict[bytes, bytes], now_ms: int) -> ingest_pb2.Camera:
        camera = ingest_pb2.Camera(
            name=names.camera(self._store, camera_id),
            message_count=int(fields.get(b"messages", 0)),
            detection_count=int(fields.get(b"detections", 0)),
        )
        camera.last_seen_time.FromMilliseconds(int(fields.get(b"last_seen", 0)))
        camera.last_detect_time.FromMilliseconds(int(fields.get(b"last_detect", 0)))
        for key, value in fields.items():
            if key.startswith(b"rate:"):
                measured_ms, messages, detections = value.split(b" ")
                if now_ms - int(measured_ms) <= 3000 * _FLUSH_SECONDS:
                    camera.message_rate += float(messages)
                    camera.detection_rate += float(detections)
        return camera

    async def _flush(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        async with self._redis.pipeline(transaction=False) as pipe:
            for camera_id, counts in list(self._counts.items()):
                counts.history.append((counts.messages, counts.detections))
                messages, detections, counts.messages, counts.detections = counts.messages, counts.detections, 0, 0
                key = self._camera_key(camera_id)
                if not any(sent for sent, _ in counts.history):
                    del self._counts[camera_id]
                    pipe.hdel(key, f"rate:{self._replica}")
                    continue
                seconds = len(counts.history) * _FLUSH_SECONDS
                rates = [sum(column) / seconds for column in zip(*counts.history, strict=True)]
                pipe.hincrby(key, "messages", messages)
                pipe.hincrby(key, "detections", detections)
                pipe.hset(
                    key,
                    mapping={
                        "last_seen": counts.last_seen_ms,
                        "last_detect": counts.last_detect_ms,
                        f"rate:{self._replica}": f"{now_ms} {rates[0]:.3f} {rates[1]:.3f}",
                    },
                )
                pipe.expire(key, _KEEP_SECONDS)
                pipe.sadd(self._set_key, camera_id)
            if len(pipe):
                await pipe.execute()

    @property
    def _set_key(self) -> str:
        return f"poi:{{{self._store}}}:cameras"

    def _camera_key(self, camera_id: str) -> str:
        return f"poi:{{{self._store}}}:camera:{camera_id}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
