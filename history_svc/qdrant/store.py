"""The history of one store in Qdrant and an object store: `history.HistoryStore` without anything of its own.

Any number of processes may serve it. The event loop's thread takes batches; one thread writes them, group by group.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog
from poi.v1 import history_pb2

from history_svc import metrics
from history_svc.appearances import Rules
from history_svc.frames import FrameStore
from history_svc.group import Group, Job
from history_svc.history import Appending
from history_svc.inbox import Inbox
from history_svc.intake import Batch
from history_svc.qdrant.appending import Appender
from history_svc.qdrant.collections import connect
from history_svc.qdrant.database import Database, between, equals, with_id
from history_svc.qdrant.erasing import Eraser, QdrantErasing
from history_svc.qdrant.index import QdrantIndex
from history_svc.qdrant.reads import QdrantReads
from history_svc.qdrant.states import frame_point_id
from history_svc.qdrant.tracks import Tracks
from history_svc.records import Frame, Header
from history_svc.seam import PLAIN, Seam
from history_svc.settings import Settings
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import MeshError, Unavailable

_log = structlog.get_logger(__name__)
_NS: Final = 1_000_000_000
_GROUP_DETECTIONS: Final = 1024
_ATTEMPTS: Final = 12
_PAUSE_SECONDS: Final = 0.02


class QdrantHistory:
    """See the module. Make it with `open`; run its `work` in the background; end with `close`."""

    def __init__(self, settings: Settings, database: Database, frames: FrameStore) -> None:
        self.store, self.frames = settings.store, frames
        self.index = QdrantIndex(database, exact=settings.qdrant_exact)
        self.reads = QdrantReads(database)
        rules = Rules(int(settings.gap_seconds * _NS), settings.other_person_similarity)
        tracks = Tracks(database, rules.gap_ns)
        self._appender = Appender(database, self.index, tracks, self.reads, rules)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.erasing = QdrantErasing(Eraser(database, self.reads, tracks), frames, self._writer)
        self._settings, self._database = settings, database
        self._inbox = Inbox(
            settings, self.reads, frames, self._write_group, self._forget_frame, group_detections=_GROUP_DETECTIONS
        )
        self.index.drop_before(self.oldest_ns())

    @classmethod
    def open(cls, settings: Settings, seam: Seam = PLAIN) -> QdrantHistory:
        """Connects, and makes the collections where there are none. Blocks. Raises as Database and FrameStore do."""
        header = Header(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL])
        database = Database(connect(settings.qdrant_url), header)
        frames = FrameStore.open(settings.frames_url, Path(), seam)
        frames.leave_orphans()
        return cls(settings, database, frames)

    async def close(self) -> None:
        """Waits for what is being written. Nobody waits for an answer any more."""
        self._inbox.close()
        await asyncio.to_thread(self._writer.shutdown)
        self.index.close()

    def oldest_ns(self) -> int:
        """What is older is neither taken nor found."""
        return self._inbox.oldest_ns()

    def read(self, request: history_pb2.AppendDetectionsRequest) -> Batch:
        """Sorts a request into what can be appended and what is refused."""
        return self._inbox.read(request)

    def append(self, batch: Batch) -> Appending:
        """Puts a batch behind those before it."""
        return self._inbox.append(batch)

    def work(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What is to run in the background."""
        return {"write": self.write, "sweep": self.sweep}

    def watch(self, told: Callable[[bool], object]) -> None:
        """It keeps nothing that could be damaged."""
        told(True)

    async def write(self) -> None:
        """Writes what is appended, for ever."""
        await self._inbox.write()

    async def _write_group(self, jobs: list[Job]) -> Group:
        loop = asyncio.get_running_loop()
        for attempt in range(_ATTEMPTS):
            group = await loop.run_in_executor(self._writer, self._appender.append, jobs)
            if group is not None:
                return group
            metrics.CONFLICTS.inc()
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * (attempt + 1)))
        raise Unavailable("others write the same tracks all the time", reason="CONFLICT", retry_after=1.0)

    async def sweep(self) -> None:
        """Removes what is too old, and finishes the erasures that a killed process left, for ever."""
        while True:
            floor = self.oldest_ns()
            self.index.drop_before(floor)
            try:
                detections, records = await asyncio.to_thread(self._remove_before, floor)
                frames = await self.frames.drop_before(floor)
                if detections or records or frames:
                    _log.info("expired", detections=detections, records=records, frames=frames)
                await self.erasing.finish_others()
                await asyncio.to_thread(self._gauge)
            except MeshError as error:
                _log.error("sweep_failed", error=str(error))
            await asyncio.sleep(self._settings.sweep_seconds)

    def _remove_before(self, time_ns: int) -> tuple[int, int]:
        old = self._database.where(between("end_us", None, time_ns // 1000))
        return self.index.sweep(), self._database.remove(self._database.records, old)

    def _gauge(self) -> None:
        database = self._database
        everything = database.where()
        metrics.ROWS.set(database.count(database.detections, self.index.faces(), exact=False))
        metrics.DETECTIONS.set(database.count(database.detections, everything, exact=False))
        appearances = database.where(equals("kind", "appearance"))
        metrics.APPEARANCES.set(database.count(database.records, appearances, exact=False))

    async def _forget_frame(self, frame: Frame) -> None:
        here = self._database.where(with_id([frame_point_id(self.store, frame.id)]))
        await asyncio.to_thread(self._database.remove, self._database.records, here)
