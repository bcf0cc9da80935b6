"""Appends from a process of their own, prepared beforehand, so that what is measured is the server."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from poi.v1 import common_pb2, history_pb2

from bench.lag import quantile
from mesh import embeddings
from mesh.channels import connect
from mesh.embeddings import FACE_MODEL

PARENT = "stores/store-1"
BATCH = 64
_METHOD = "/poi.v1.HistoryService/AppendDetections"
_CAMERAS = 16
_AT_ONCE = 32
"""Batches of one moment: 2,048 people, ten times a second, are 20,480 detections a second."""
_SIGHTS = 8
"""Detections of a track."""
_FRAME_NS = 100_000_000


@dataclass(frozen=True)
class Job:
    """Detections to append on one stream, in batches of BATCH; a person is seen 8 times, ten times a second."""

    target: str
    batches: int
    rate: float
    """Detections a second; 0: as fast as the server takes them."""
    begin_ns: int
    """Event time of the first batch."""
    seed: int
    """Another one makes other detections."""


@dataclass(frozen=True)
class Appended:
    """What the server said to a job."""

    stored: int
    seconds: float
    """From the first batch's departure to the last one's acknowledgement."""
    ack_p50: float
    ack_p95: float
    """ms from a batch's departure (in a paced job: from when it was due) until it was durable."""
    cpu_seconds: float
    """Of the process that appended."""

    @property
    def rate(self) -> float:
        """Detections a second."""
        return self.stored / self.seconds


def prepare(job: Job) -> list[bytes]:
    """The requests of a job on the wire."""
    random = np.random.default_rng(job.seed)
    faces = embeddings.normalise(random.standard_normal((1024, embeddings.DIMENSIONS[FACE_MODEL]), np.float32))
    encoded = [embeddings.encode(one, model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED) for one in faces]
    requests = []
    for number in range(job.batches):
        request = history_pb2.AppendDetectionsRequest(parent=PARENT, batch_id=number)
        moment, place = divmod(number, _AT_ONCE)
        first = (moment // _SIGHTS * _AT_ONCE + place) * BATCH
        for at in range(BATCH):
            one = request.detections.add(
                detection_id=random.bytes(16).hex(),
                camera=f"{PARENT}/cameras/Camera_{at % _CAMERAS:02d}",
                object_id=f"{job.seed}-{first + at}",
                embedding=encoded[(first + at) % len(encoded)],
                person_box=common_pb2.BoundingBox(x=100, y=50, width=90, height=260),
                face_box=common_pb2.BoundingBox(x=120, y=60, width=48, height=60),
                person_confidence=0.98,
                face_confidence=0.95,
            )
            one.detect_time.FromNanoseconds(job.begin_ns + moment * _FRAME_NS)
        requests.append(request.SerializeToString())
    return requests


async def _append(job: Job, requests: list[bytes]) -> Appended:
    departed = [0.0] * len(requests)
    taken: list[float] = []
    stored = 0
    pause = BATCH / job.rate if job.rate else 0.0
    before = time.process_time()
    started = time.perf_counter()

    async def paced() -> AsyncIterator[bytes]:
        for number, request in enumerate(requests):
            now = time.perf_counter()
            due = started + number * pause if pause else now
            if due > now:
                await asyncio.sleep(due - now)
            departed[number] = due
            yield request

    async with connect(job.target) as channel:
        # Without a serializer: the requests are bytes already.
        call: Any = channel.stream_stream(
            _METHOD, response_deserializer=history_pb2.AppendDetectionsResponse.FromString
        )
        async for response in call(paced()):
            taken.append((time.perf_counter() - departed[response.batch_id]) * 1000)
            stored += len(response.stored)
    seconds = time.perf_counter() - started
    taken.sort()
    return Appended(stored, seconds, quantile(taken, 0.5), quantile(taken, 0.95), time.process_time() - before)


_prepared: dict[Job, list[bytes]] = {}


def _prepare(job: Job) -> None:
    _prepared[job] = prepare(job)


def _run(job: Job) -> Appended:
    return asyncio.run(_append(job, _prepared.pop(job)))


class Appender:
    """The process. Use as a context manager."""

    def __init__(self) -> None:
        # A fork would inherit gRPC's threads.
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def prepare(self, job: Job) -> None:
        """Makes the requests of a job, which takes longer than to send them."""
        await asyncio.get_running_loop().run_in_executor(self._pool, _prepare, job)

    async def run(self, job: Job) -> Appended:
        """Appends what was prepared."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, _run, job)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
