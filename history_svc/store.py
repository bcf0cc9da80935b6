"""The history of one store: takes batches and makes them durable in groups, and holds what reads need.

Everything but disk and vector work runs in the event loop's thread, so that decisions come one after the other: a batch
is decided on top of all before it, written together with those that came meanwhile, and only then taken over and
answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import structlog
from poi.v1 import history_pb2

from history_svc import metrics
from history_svc.appearances import Rules
from history_svc.book import Book
from history_svc.draft import Draft, Shelved
from history_svc.erasing import Erasing
from history_svc.erasure import Erasures
from history_svc.errors import refused
from history_svc.frames import FrameStore
from history_svc.group import Group, Job, decide
from history_svc.history import Appending
from history_svc.inbox import Inbox
from history_svc.index import Faces
from history_svc.intake import Batch
from history_svc.ledger import Ledger, LogFile
from history_svc.log import DetectionLog
from history_svc.quarantine import Quarantine
from history_svc.reads import Reads
from history_svc.records import (
    ROW,
    Frame,
    Header,
    appearance_number,
    appearance_numbers,
    encode_detections,
    encode_frame,
    encode_header,
    rounded,
)
from history_svc.replay import OtherData, Replay
from history_svc.sealed.directory import Directory, OtherHeader
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealing import Sealing
from history_svc.seam import PLAIN, Seam
from history_svc.settings import Settings
from history_svc.stored import Stored
from mesh.embeddings import DIMENSIONS, FACE_MODEL

_log = structlog.get_logger(__name__)
_NS = 1_000_000_000
_GROUP_DETECTIONS = 512
_FORGET_AT_ONCE = 4096
_ORPHANS_AFTER_SECONDS = 600.0
"""By then ingest has sent again what was under way, and an object store's clock may be minutes off."""


class History:
    """See the module. Make it with `open`; run `write` and `sweep` in the background; end with `close`."""

    def __init__(
        self,
        settings: Settings,
        log: DetectionLog,
        frames: FrameStore,
        book: Book,
        sealed: SegmentedIndex,
        directory: Directory,
        ledger: Ledger,
        stored: Stored,
        erasures: Erasures,
        quarantine: Quarantine,
    ) -> None:
        self.quarantine = quarantine
        self.book, self.index, self.sealed, self.frames = book, sealed, sealed, frames
        self.reads = Reads(book, sealed, erasures)
        self.store = settings.store
        self._dimension = directory.header.dimension
        self._settings, self._log, self._ledger, self._stored = settings, log, ledger, stored
        self._sealing = Sealing(sealed, directory, ledger, log, settings, erasures, self._take)
        self._rules = _rules(settings)
        self._inbox = Inbox(
            settings, self.reads, frames, self._write_group, self._forget_frame, group_detections=_GROUP_DETECTIONS
        )
        self._deciding = asyncio.Lock()
        self.erasures = erasures
        self.erasing = Erasing(
            settings.store,
            book,
            sealed,
            self.reads,
            erasures,
            self._sealing,
            self._deciding,
            self._roll,
            frames,
            quarantine,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log")

    @classmethod
    def open(cls, settings: Settings, seam: Seam = PLAIN) -> History:
        """Locks the data directory and reads the log. Blocks. All that is stored of people passes the seam.

        Raises log.DirectoryInUse, replay.OtherData, mesh.vault.Unopenable or OSError.
        """
        started = time.perf_counter()
        header = Header(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL])
        quarantine = Quarantine(settings.data_dir / "quarantine")
        log = DetectionLog(
            settings.data_dir,
            encode_header(header),
            segment_bytes=settings.segment_bytes,
            segment_seconds=settings.segment_seconds,
            min_free_bytes=settings.min_free_bytes,
            quarantine=quarantine,
            seam=seam,
        )
        try:
            return cls._read(settings, seam, header, quarantine, log, started)
        except BaseException:
            log.close()  # the directory is free again
            raise

    @classmethod
    def _read(
        cls, settings: Settings, seam: Seam, header: Header, quarantine: Quarantine, log: DetectionLog, started: float
    ) -> History:
        rules = _rules(settings)
        book = Book(rules.gap_ns)
        ledger = Ledger(book, settings.seal_faces, settings.seal_seconds)
        sealed = SegmentedIndex(header.dimension, settings.search_threads)
        quarantine.make_way(settings.data_dir / "erasures")
        erasures = Erasures(settings.data_dir / "erasures", quarantine)
        stored = Stored(sealed, book, erasures, rules.gap_ns)
        try:
            directory = Directory(settings.data_dir / "segments", quarantine, header, seam)
            sealed.verify = directory.verify
            for segment in directory.open(settings.search_threads):
                sealed.take(segment)
                stored.note(segment)
                log.discard(segment.manifest.first_log, segment.manifest.last_log)
        except OtherHeader as error:
            raise OtherData.of(error.header, header) from None
        sealed.reserve(quarantine.used()[1])
        sealed.remove([appearance_number(one) for one in erasures.erased.appearances])
        replay = Replay(header, book, sealed, rules, ledger, stored, erasures.erased)
        log.recover(replay.apply, replay.closed)
        quarantine.make_way(settings.data_dir / "frames")
        frames = FrameStore.open(settings.frames_url, settings.data_dir / "frames", seam)
        history = cls(settings, log, frames, book, sealed, directory, ledger, stored, erasures, quarantine)
        floor = history.oldest_ns()
        book.drop_before(floor)
        sealed.drop_before(floor)
        history._gauge()
        _log.info(
            "history_opened",
            detections=history.detection_count,
            appearances=history.appearance_count,
            faces=len(sealed),
            seconds=round(time.perf_counter() - started, 3),
        )
        return history

    async def close(self) -> None:
        """Waits for what is being written, and gives the directory free. Nobody waits for an answer any more."""
        self._inbox.close()
        await asyncio.to_thread(self._close)

    @property
    def detection_count(self) -> int:
        """How many detections are kept."""
        return self.book.detection_count + sum(one.manifest.rows for one in self.sealed.segments)

    @property
    def appearance_count(self) -> int:
        """About how many appearances are kept."""
        return self.book.fresh + sum(one.manifest.fresh for one in self.sealed.segments)

    def oldest_ns(self) -> int:
        """What is older is neither taken nor found."""
        return self._inbox.oldest_ns()

    def read(self, request: history_pb2.AppendDetectionsRequest) -> Batch:
        """Sorts a request into what can be appended and what is refused."""
        return self._inbox.read(request)

    def append(self, batch: Batch) -> Appending:
        """Puts a batch behind those before it on the way to the disk."""
        return self._inbox.append(batch)

    def work(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What is to run in the background."""
        return {
            "write": self.write,
            "sweep": self.sweep,
            "seal": self.seal,
            "verify": self.verify,
            "erase": self.erasing.run,
            "orphan frames": self.remove_orphan_frames,
        }

    def watch(self, told: Callable[[bool], object]) -> None:
        """Tells whether nothing is in quarantine, now and whenever that changes; from any thread."""
        self.quarantine.watch(told)

    async def write(self) -> None:
        """Writes what is appended, for ever."""
        await self._inbox.write()

    async def seal(self) -> None:
        """Moves what fills a segment from the log into one, for ever."""
        await self._sealing.run()

    async def verify(self) -> None:
        """Reads every segment now and then, and puts aside those that are damaged, for ever."""
        await self._sealing.verify()

    async def sweep(self) -> None:
        """Drops what is too old, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            async with self._sealing.lock:
                async with self._deciding:
                    floor = self.oldest_ns()
                    self.book.drop_before(floor)
                    self.sealed.drop_before(floor)
                    files = await loop.run_in_executor(self._writer, self._log.drop_before, floor)
                    self._file_closed()
                    self._ledger.drop(files)
                segments = await self._sealing.drop_before(floor)
            await asyncio.to_thread(self.quarantine.drop_before, floor)
            for erasure in self.erasures.forgettable(floor):
                await asyncio.to_thread(self.erasures.write, erasure)
                self.erasures.take(erasure)
            frames = await self.frames.drop_before(floor)
            self._gauge()
            if files or segments or frames:
                _log.info("expired", log_files=len(files), segments=segments, frames=frames)

    async def remove_orphan_frames(self) -> None:
        """Removes, once, the frames that a process wrote before this one and was killed before it recorded them."""
        await asyncio.sleep(_ORPHANS_AFTER_SECONDS)
        orphans = await self.frames.remove_orphans(self.reads.frames_of)
        _log.info("orphan_frames_removed", frames=orphans)

    async def _roll(self) -> None:
        """Ends the log file that is written."""
        async with self._deciding:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._log.roll)
            self._file_closed()

    def _file_closed(self) -> None:
        """Log files that were ended may fill a segment now."""
        for closed in self._log.take_closed():
            self._ledger.close(closed)
            self._sealing.wake()

    async def _write_group(self, jobs: list[Job]) -> Group:
        loop = asyncio.get_running_loop()
        async with self._deciding:
            try:
                draft = Draft(self.book, self._rules, await self._shelved(jobs))
                group = decide(draft, jobs)
                # In the writer's thread, as far as that leaves this one the interpreter.
                faces = await loop.run_in_executor(self._writer, self._store_group, group, self.index.next_number)
            except OSError as error:
                _log.error("write_failed", error=str(error), batches=len(jobs))
                self._file_closed()
                raise refused(error) from error
            draft.commit()
            self._ledger.note(len(group.rows), len(group.faces), draft.touched())
            if self._ledger.full:
                await loop.run_in_executor(self._writer, self._log.roll)
            self._file_closed()
            if faces is not None:
                self.index.add(faces)
            self._gauge()
            return group

    def _store_group(self, group: Group, first_face: int) -> Faces | None:
        """Makes a group durable; returns its faces for the index. Blocks."""
        payloads = [encode_frame(link) for link in group.links]
        vectors = np.array(group.vectors, np.float32).reshape(-1, self._dimension)
        if group.rows:
            payloads.insert(0, encode_detections(list(group.tracks), b"".join(group.rows), vectors, first_face))
        if payloads:
            self._log.append(payloads, group.newest_ns)
        if not group.faces:
            return None
        return Faces(
            np.arange(first_face, first_face + len(group.faces)),
            appearance_numbers(np.frombuffer(b"".join(group.face_appearances), "V16")),
            group.face_cameras,
            np.frombuffer(b"".join(group.faces), ROW),
            rounded(vectors),
        )

    async def _shelved(self, jobs: list[Job]) -> Shelved | None:
        """What sealed segments have of all that these jobs may need."""
        asked = [one for job in jobs for one in job.observations if self.book.appearance_of(one.detection) is None]
        detections, sights = [one.detection for one in asked], [(one.track, one.time_ns) for one in asked]
        shown = {one for job in jobs for link in job.links for one in link.appearances}
        erased = self._stored.erased(detections)
        if not self._stored.needed(sights, shown):
            return Shelved(erased) if erased else None
        shelved = partial(self._stored.shelved, detections, sights, shown)
        found = await asyncio.get_running_loop().run_in_executor(self._writer, shelved)
        return Shelved({**found.detections, **erased}, found.appearances)

    async def _take(self, segment: SealedFaces, logs: Sequence[LogFile]) -> None:
        """From now on a segment answers for what is in it."""
        detections = segment.table.ids("detection")
        async with self._deciding:  # a group that is being decided has looked for repeats already
            self.sealed.take(segment)
            self._stored.note(segment)
            self.book.shelve(logs[-1].epoch)
        # A few at a time: forgetting 65,536 at once held up every append, and alert, by some 40 ms.
        for start in range(0, len(detections), _FORGET_AT_ONCE):
            async with self._deciding:
                self.book.forget_detections(detections[start : start + _FORGET_AT_ONCE])
            await asyncio.sleep(0)
        async with self._deciding:
            self.book.tidy()
        self._gauge()

    async def _forget_frame(self, frame: Frame) -> None:
        self.book.erase((), {frame.id})

    def _gauge(self) -> None:
        metrics.ROWS.set(len(self.index))
        metrics.SEGMENTS.set(len(self.sealed.segments))
        metrics.APPEARANCES.set(self.appearance_count)
        metrics.DETECTIONS.set(self.detection_count)
        begun = [one.manifest.oldest_ns for one in self.sealed.segments if one.manifest.rows]
        if self.book.oldest_ns is not None:
            begun.append(self.book.oldest_ns)
        metrics.OLDEST_SECONDS.set(min(begun, default=0) / _NS)

    def _close(self) -> None:
        self._sealing.close()
        self._writer.shutdown()
        self._log.close()
        self.sealed.close()


def _rules(settings: Settings) -> Rules:
    return Rules(int(settings.gap_seconds * _NS), settings.other_person_similarity)
