"""The history of one store in Qdrant and an object store: `history.HistoryStore` without anything of its own.

Any number of processes may serve it. The event loop's thread takes batches; one thread writes them, group by group.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog
from poi.v1 import history_pb2

from history_svc import metrics
from history_svc.appearances import Rules
from history_svc.frames import FrameStore
from history_svc.group import Group, Job
from history_svc.history import Appending
from history_svc.intake import Batch, Intake, Observation, Upload
from history_svc.qdrant.appending import Appender
from history_svc.qdrant.collections import connect
from history_svc.qdrant.database import Database, between, equals, with_id
from history_svc.qdrant.erasing import Eraser, QdrantErasing
from history_svc.qdrant.index import QdrantIndex
from history_svc.qdrant.reads import QdrantReads
from history_svc.qdrant.states import frame_point_id
from history_svc.qdrant.tracks import Tracks
from history_svc.records import FrameLink, Header
from history_svc.seam import Seam
from history_svc.settings import Settings
from mesh import names
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import MeshError, NotFound, Unavailable

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
        self._intake = Intake(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL], settings.max_frame_bytes)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.index.drop_before(self.oldest_ns())

    @classmethod
    def open(cls, settings: Settings) -> QdrantHistory:
        """Connects, and makes the collections where there are none. Blocks. Raises as Database and FrameStore do."""
        header = Header(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL])
        database = Database(connect(settings.qdrant_url), header)
        frames = FrameStore.open(settings.frames_url, Path(), Seam())
        frames.leave_orphans()
        return cls(settings, database, frames)

    async def close(self) -> None:
        """Waits for what is being written. Nobody waits for an answer any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self._writer.shutdown)
        self.index.close()

    def oldest_ns(self) -> int:
        """What is older is neither taken nor found."""
        return time.time_ns() - int(self._settings.retention_days * 86_400 * _NS)

    def read(self, request: history_pb2.AppendDetectionsRequest) -> Batch:
        """Sorts a request into what can be appended and what is refused."""
        newest_ns = time.time_ns() + int(self._settings.future_seconds * _NS)
        return self._intake.read(request, self.oldest_ns(), newest_ns)

    def append(self, batch: Batch) -> Appending:
        """Puts a batch behind those before it."""
        detections = self._submit(batch.observations, []) if batch.observations else None
        frames = self._start(self._append_frames(batch.uploads, detections)) if batch.uploads else None
        return Appending(detections, frames)

    def work(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What is to run in the background."""
        return {"write": self.write, "sweep": self.sweep}

    def watch(self, told: Callable[[bool], object]) -> None:
        """It keeps nothing that could be damaged."""
        told(True)

    async def write(self) -> None:
        """Writes what is appended, for ever."""
        while True:
            jobs = [await self._jobs.get()]
            total = len(jobs[0].observations)
            while total < _GROUP_DETECTIONS and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
                total += len(jobs[-1].observations)
            try:
                group = await self._write_group(jobs)
            except MeshError as error:
                metrics.WRITE_FAILURES.inc()
                _fail(jobs, error)
                continue
            except Exception as error:
                _fail(jobs, error)
                raise
            for job, answer in zip(jobs, group.answers, strict=True):
                if not job.done.done():  # its stream is gone, and took the future with it
                    job.done.set_result(answer)
            metrics.APPENDED.inc(len(group.rows))
            metrics.DUPLICATES.inc(sum(map(len, group.answers)) - len(group.rows))
            metrics.GROUP_BATCHES.observe(len(jobs))

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

    def _submit(self, observations: list[Observation], links: list[FrameLink]) -> asyncio.Future[list[bytes]]:
        done: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        self._jobs.put_nowait(Job(observations, links, done))
        return done

    async def _append_frames(
        self, uploads: list[Upload], detections: asyncio.Future[list[bytes]] | None
    ) -> list[MeshError | None]:
        if detections is not None:
            await detections  # a frame may show an appearance that begins in the same request
        answers: list[MeshError | None] = []
        links: list[FrameLink] = []
        for upload in uploads:
            unknown = await self._unknown(upload)
            if unknown is None:
                await self.frames.save(upload.frame, upload.image)
                links.append(FrameLink(upload.frame, upload.appearances))
            answers.append(unknown)
        if links:
            await self._submit([], links)
        for at, upload in enumerate(uploads):
            # Erased meanwhile, perhaps by somebody who did not know of this frame yet.
            if answers[at] is None and (erased := await self._unknown(upload)) is not None:
                answers[at] = erased
                await self.frames.remove([upload.frame])
                await asyncio.to_thread(self._remove_frame, upload.frame.id)
        metrics.FRAMES.inc(answers.count(None))
        return answers

    async def _unknown(self, upload: Upload) -> NotFound | None:
        known = await self.reads.appearances(upload.appearances) if upload.appearances else {}
        unknown = [one for one in upload.appearances if one not in known]
        return NotFound(names.appearance(self.store, unknown[0].hex())) if unknown else None

    def _remove_frame(self, frame_id: str) -> None:
        key = frame_point_id(self.store, frame_id)
        self._database.remove(self._database.records, self._database.where(with_id([key])))

    def _start(self, work: Coroutine[Any, Any, list[MeshError | None]]) -> asyncio.Task[list[MeshError | None]]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_seen)
        return task


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)


def _seen(done: asyncio.Future[Any]) -> None:
    """Marks an error as seen: the stream that would have told it may be gone."""
    if not done.cancelled():
        done.exception()
