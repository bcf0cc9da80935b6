"""Batches on their way into a history: sorted into what is sound, queued, written in groups, and answered.

Of the loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from poi.v1 import history_pb2

from history_svc import metrics
from history_svc.frames import FrameStore
from history_svc.group import Group, Job
from history_svc.history import Appending, HistoryReads
from history_svc.intake import Batch, Intake, Observation, Upload
from history_svc.records import Frame, FrameLink
from history_svc.settings import Settings
from mesh import names
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import MeshError, NotFound

_NS: Final = 1_000_000_000


class Inbox:
    """See the module. Run `write` in the background; `close` ends what is under way."""

    def __init__(
        self,
        settings: Settings,
        reads: HistoryReads,
        frames: FrameStore,
        write_group: Callable[[list[Job]], Awaitable[Group]],
        forget_frame: Callable[[Frame], Awaitable[None]],
        *,
        group_detections: int,
    ) -> None:
        """`write_group` makes jobs durable, raises MeshError when it did not; groups end with so many detections.

        `forget_frame` removes what was recorded of a frame.
        """
        self._settings, self._reads, self._frames = settings, reads, frames
        self._write_group, self._forget_frame, self._most = write_group, forget_frame, group_detections
        self._intake = Intake(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL], settings.max_frame_bytes)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    def oldest_ns(self) -> int:
        """What is older is neither taken nor found."""
        return time.time_ns() - int(self._settings.retention_days * 86_400 * _NS)

    def read(self, request: history_pb2.AppendDetectionsRequest) -> Batch:
        """As HistoryStore."""
        newest_ns = time.time_ns() + int(self._settings.future_seconds * _NS)
        return self._intake.read(request, self.oldest_ns(), newest_ns)

    def append(self, batch: Batch) -> Appending:
        """As HistoryStore."""
        detections = self._submit(batch.observations, []) if batch.observations else None
        frames = self._start(self._append_frames(batch.uploads, detections)) if batch.uploads else None
        return Appending(detections, frames)

    async def write(self) -> None:
        """Writes what is appended, for ever."""
        while True:
            jobs = [await self._jobs.get()]
            total = len(jobs[0].observations)
            while total < self._most and not self._jobs.empty():
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

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for task in self._tasks:
            task.cancel()

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
                await self._frames.save(upload.frame, upload.image)
                links.append(FrameLink(upload.frame, upload.appearances))
            answers.append(unknown)
        if links:
            await self._submit([], links)
        for at, upload in enumerate(uploads):
            # Erased meanwhile, by somebody who did not know of this frame yet.
            if answers[at] is None and (erased := await self._unknown(upload)) is not None:
                answers[at] = erased
                await self._frames.remove([upload.frame])
                await self._forget_frame(upload.frame)
        metrics.FRAMES.inc(answers.count(None))
        return answers

    async def _unknown(self, upload: Upload) -> NotFound | None:
        known = await self._reads.appearances(upload.appearances) if upload.appearances else {}
        unknown = [one for one in upload.appearances if one not in known]
        return NotFound(names.appearance(self._settings.store, unknown[0].hex())) if unknown else None

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
