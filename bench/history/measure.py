"""What a running history server does, asked through its contract."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2
from rich.console import Console

from bench.history import cold
from bench.history.appends import BATCH, Appended, Appender, Job
from bench.history.data import Data
from bench.history.report import Meanwhile, Memory, Quantiles, Server
from bench.history.searches import THRESHOLD, Client, latencies, latencies_while
from history_svc.records import Vectors
from mesh.local import Service

HARD_THRESHOLD = 0.7
"""Goes through the middle of a person's faces: many hits are near it."""
_ROUNDS = 5
_WARM_UP = 20
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Truth:
    """What exact scans found, a set of appearances for each query."""

    centres: list[set[int]]
    photos: list[set[int]]
    photos_hard: list[set[int]]


@dataclass(frozen=True)
class Plan:
    """How much to ask. `rate` in detections a second."""

    cold_queries: int
    appends: int
    rate: float


def memory(service: Service) -> Memory:
    """What the server has in memory now."""
    info = psutil.Process(service.pid).memory_info()
    return Memory(info.rss / 2**20, (info.rss - info.shared) / 2**20)


async def measure(
    service: Service, directory: Path, data: Data, queries: tuple[Vectors, Vectors], truth: Truth, plan: Plan,
    console: Console,
) -> Server:  # fmt: skip
    """All but the start. `queries` are those of which `truth` is; `directory` has the server's data."""
    centres, photos = queries
    client = Client(service.target)
    try:
        console.print("Searching")
        recalls = (
            await client.recall(centres, truth.centres, THRESHOLD),
            await client.recall(photos, truth.photos, THRESHOLD),
            await client.recall(photos, truth.photos_hard, HARD_THRESHOLD),
        )
        span = data.end_ns - data.begin_ns
        tenth = _interval(data.begin_ns + span * 9 // 20, data.begin_ns + span * 11 // 20)
        count = _ROUNDS * len(photos)
        warm = await latencies(count, lambda at: client.search(photos[at % len(photos)]))
        of_tenth = await latencies(count, lambda at: client.search(photos[at % len(photos)], interval=tenth))
        resident = memory(service)
        with Appender() as appender:
            console.print("Appending alone, then while searching, then at a fixed rate while searching")
            alone, _ = await _append(appender, client, photos, service, plan.appends, 0, search=False)
            flat_out = await _append(appender, client, photos, service, plan.appends, 0)
            paced = await _append(appender, client, photos, service, plan.appends, plan.rate)
        console.print("Searching with an empty page cache")
        emptied, cold_taken = "", []
        _, strangers = data.queries(plan.cold_queries, seed=2)
        for stranger in strangers:
            emptied = await asyncio.to_thread(cold.empty, directory)
            cold_taken += await latencies(1, lambda _, one=stranger: client.search(one))  # type: ignore[misc]
    finally:
        await client.close()
    return Server(
        *recalls,
        warm=Quantiles.of(warm),
        tenth=Quantiles.of(of_tenth),
        cold=Quantiles.of(sorted(cold_taken)),
        cold_how=emptied,
        resident_after_searches=resident,
        appends_alone=alone,
        flat_out=Meanwhile(*flat_out),
        paced=Meanwhile(*paced),
        paced_rate=plan.rate,
    )


async def _append(
    appender: Appender, client: Client, queries: Vectors, service: Service, count: int, rate: float, *,
    search: bool = True,
) -> tuple[Appended, Quantiles | None]:  # fmt: skip
    """What became of appends, and the searches meanwhile."""
    job = Job(service.target, -(-count // BATCH), rate, time.time_ns() - 60 * _SECOND, time.time_ns() % 2**32)
    await appender.prepare(job)
    await latencies(_WARM_UP, lambda at: client.search(queries[at % len(queries)]))
    appending = asyncio.create_task(appender.run(job))
    during: list[float] = []
    if search:
        during = await latencies_while(appending, lambda at: client.search(queries[at % len(queries)]))
    appended = await appending
    if appended.stored != job.batches * BATCH:
        raise RuntimeError(f"{appended.stored} of {job.batches * BATCH} detections were stored")
    return appended, Quantiles.of(during) if during else None


def _interval(begin_ns: int, end_ns: int) -> common_pb2.Interval:
    moments = [Timestamp(seconds=one // _SECOND, nanos=one % _SECOND) for one in (begin_ns, end_ns)]
    return common_pb2.Interval(start_time=moments[0], end_time=moments[1])
