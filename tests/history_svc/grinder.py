"""A history that appends, seals, expires and erases as fast as it can, in a process that is there to be killed."""

import asyncio
import time
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from poi.v1 import common_pb2, history_pb2

from history_svc.settings import Settings
from history_svc.store import History
from tests.history_svc.client import STORE
from tests.support import detection, similar, unit

BATCH = 12
SEAL = 60
GUEST = 4
"""Comes once in each batch; some of these appearances are erased."""


def batch(number: int, begin_ns: int) -> list[common_pb2.Detection]:
    """One second of people: those that are there for long, and those that come once. Each has a face."""
    made = []
    for person in range(BATCH):
        object_id = str(person) if person % 2 else f"{person}-{number}"
        face = similar(unit(person), 0.8, 1000 + number * BATCH + person)
        one = detection(face, at=float(number), camera=f"Camera_{person % 3}", object_id=object_id)
        one.detect_time.FromNanoseconds(begin_ns + number * 1_000_000_000)
        made.append(one)
    return made


def settings(data_dir: Path, oldest_ns: int) -> Settings:
    """Keeps what is from `oldest_ns` on, counted from now."""
    return Settings(
        data_dir=data_dir,
        seal_faces=SEAL,
        retention_days=(time.time_ns() - oldest_ns) / 86_400e9,
        sweep_seconds=0.01,
        segment_seconds=3600.0,
    )


def grind(data_dir: Path, begin_ns: int, first: int, oldest_ns: int, acknowledged: Connection) -> None:
    """Tells (batch, its appearances) of each batch from `first` on that is durable, and (-1, those that are erased).

    Never returns.
    """
    asyncio.run(_grind(data_dir, begin_ns, first, oldest_ns, acknowledged))


async def _grind(data_dir: Path, begin_ns: int, first: int, oldest_ns: int, acknowledged: Connection) -> None:
    history = History.open(settings(data_dir, oldest_ns))
    work = (history.write(), history.seal(), history.verify(), history.sweep(), history.erasing.run())
    tasks = [asyncio.create_task(one) for one in work]
    guests: asyncio.Queue[bytes] = asyncio.Queue()
    tasks.append(asyncio.create_task(_erase(history, guests, acknowledged)))
    for number in count(first):
        request = history_pb2.AppendDetectionsRequest(parent=STORE, detections=batch(number, begin_ns))
        appending = history.append(history.read(request))
        assert appending.detections is not None
        appearances = await appending.detections
        acknowledged.send((number, appearances))
        if number % 7 == 0:
            guests.put_nowait(appearances[GUEST])
    await asyncio.gather(*tasks)


async def _erase(history: History, guests: asyncio.Queue[bytes], acknowledged: Connection) -> None:
    while True:
        wanted = [await guests.get()]
        found = await history.reads.appearances(wanted)
        if found:  # and not erased by a process before this one
            await history.erasing.erase(wanted, wanted[0].hex())
            acknowledged.send((-1, wanted))
