"""Removes appearances for good: from memory at once, then from every file. Of the loop's thread."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import structlog

from history_svc import metrics
from history_svc.book import Book
from history_svc.erasure import Erasure, Erasures, Receipt, check_repeat
from history_svc.errors import refused
from history_svc.frames import FrameStore
from history_svc.quarantine import Quarantine
from history_svc.reads import Reads
from history_svc.records import appearance_number
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealed.manifest import Damaged
from history_svc.sealing import Sealing
from mesh import names
from mesh.errors import MeshError, NotFound, Unavailable

_log = structlog.get_logger(__name__)
_RETRY_SECONDS: Final = 5.0


class Erasing:
    """See the module. Run `run` in the background: what was begun before a crash is finished, too."""

    def __init__(
        self,
        store: str,
        book: Book,
        index: SegmentedIndex,
        reads: Reads,
        erasures: Erasures,
        sealing: Sealing,
        deciding: asyncio.Lock,
        roll: Callable[[], Awaitable[None]],
        frames: FrameStore,
        quarantine: Quarantine,
    ) -> None:
        """Nothing is decided nor written while `deciding` is held; `roll` ends the log file that is written."""
        self._store, self._book, self._index, self._reads = store, book, index, reads
        self._erasures, self._sealing, self._deciding, self._roll = erasures, sealing, deciding, roll
        self._frames, self._quarantine = frames, quarantine
        self._waiting: dict[str, list[asyncio.Future[Receipt]]] = {}
        self._wake = asyncio.Event()
        self._wake.set()

    async def plan(self, appearances: Collection[bytes]) -> Receipt:
        """What `erase` would remove; it names no erasure. Raises NotFound."""
        # What is being sealed goes from the book to a segment: asked in this order, nothing is between the two.
        recent = self._book.detections_of(appearances)
        sealed = await self._sealed_detections(appearances)
        erasure = await self._gather(appearances, sealed | recent, "")
        return replace(erasure.receipt, id="", begun_ns=0)

    async def erase(
        self, appearances: Collection[bytes], request_id: str, frames: Collection[str] = (), content: str = ""
    ) -> Receipt:
        """Hides these and removes them; returns when it is done. A request that was made before is only waited for.

        Raises NotFound, InvalidArgument, and MeshError when the disk does not do it: then it is tried again, if it was
        begun at all.
        """
        known = self._erasures.of_request(request_id)
        if known is None and not appearances and not frames:
            return Receipt("", request_id, 0, 0, 0, 0, 0, 0)
        if known is None:
            known = await self._begin(appearances, request_id, frames, content)
            self._wake.set()
        check_repeat(known, content)
        if known.done_ns:
            return known
        done = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(known.id, []).append(done)
        receipt: Receipt = await done
        return receipt

    async def receipt(self, erasure_id: str) -> Receipt | None:
        """The receipt of an erasure, done or not."""
        return self._erasures.get(erasure_id)

    async def unfinished(self, prefix: str) -> list[str]:
        """Request ids with this prefix of erasures that are not done."""
        asked = (one.receipt.request_id for one in self._erasures.pending)
        return [request_id for request_id in asked if request_id.startswith(prefix)]

    async def run(self) -> None:
        """Finishes what has begun, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while pending := self._erasures.pending:
                try:
                    async with self._sealing.lock:
                        await self._finish(pending)
                except (OSError, Damaged, MeshError) as error:
                    _log.error("erasure_failed", erasures=len(pending), error=str(error))
                    for erasure in pending:
                        self._tell(erasure.receipt.id, error)
                    await asyncio.sleep(_RETRY_SECONDS)

    async def _begin(
        self, appearances: Collection[bytes], request_id: str, frames: Collection[str], content: str
    ) -> Receipt:
        async with self._sealing.lock:
            sealed = await self._sealed_detections(appearances)
            async with self._deciding:
                # Somebody may have asked for the same meanwhile.
                known = self._erasures.of_request(request_id)
                if known is not None:
                    return known
                erasure = await self._gather(appearances, sealed, request_id, frames)
                erasure = replace(erasure, receipt=replace(erasure.receipt, content=content))
                try:
                    await asyncio.to_thread(self._erasures.write, erasure)
                except OSError as error:
                    raise refused(error) from error
                self._erasures.take(erasure)
                self._book.erase(erasure.appearances, erasure.erased.frames)
                self._index.remove(_numbers(erasure))
        metrics.ERASED.inc(len(erasure.appearances))
        return erasure.receipt

    async def _sealed_detections(self, appearances: Collection[bytes]) -> dict[bytes, bytes]:
        numbers = [appearance_number(one) for one in appearances]
        return await asyncio.to_thread(self._index.shelf.detections_of, numbers)

    async def _gather(
        self,
        appearances: Collection[bytes],
        sealed: dict[bytes, bytes],
        request_id: str,
        others: Collection[str] = (),
    ) -> Erasure:
        found = await self._reads.appearances(appearances)
        for one in appearances:
            if one not in found:
                raise NotFound(names.appearance(self._store, one.hex()))
        detections = sealed | self._book.detections_of(appearances)
        frames = {frame.id: frame for one in found.values() for frame in one.frames}
        for other in others:
            link = await self._reads.frame(other)
            if link is not None:
                frames[other] = link.frame
        receipt = Receipt(
            uuid.uuid4().hex,
            request_id,
            begun_ns=time.time_ns(),
            done_ns=0,
            appearances=len(found),
            detections=len(detections),
            faces=sum(one.face_count for one in found.values()),
            frames=len(frames),
        )
        return Erasure(receipt, tuple(found), detections, tuple(frames.values()))

    async def _finish(self, pending: Sequence[Erasure]) -> None:
        """Removes them from all files, each of which is written anew once for all of them."""
        numbers = [one for erasure in pending for one in _numbers(erasure)]
        await self._roll()
        files = await self._sealing.clean(numbers, frozenset().union(*(one.erased.frames for one in pending)))
        quarantined = await asyncio.to_thread(self._quarantine.clear)
        for erasure in pending:
            await self._frames.remove(erasure.frames)
            receipt = replace(erasure.receipt, done_ns=time.time_ns(), files=files, quarantined=quarantined)
            done = replace(erasure, receipt=receipt, frames=())
            await asyncio.to_thread(self._erasures.write, done)
            self._erasures.take(done)
            _log.info("erased", erasure=receipt.id, appearances=receipt.appearances, detections=receipt.detections)
            self._tell(receipt.id, receipt)
        self._index.removed_for_good(numbers)

    def _tell(self, erasure_id: str, outcome: Receipt | Exception) -> None:
        for done in self._waiting.pop(erasure_id, []):
            if done.done():
                continue
            if isinstance(outcome, Receipt):
                done.set_result(outcome)
            elif isinstance(outcome, OSError):
                done.set_exception(refused(outcome))
            elif isinstance(outcome, MeshError):
                done.set_exception(outcome)
            else:
                done.set_exception(Unavailable("a file is damaged: tried again", reason="DISK_FAILED", retry_after=5.0))


def _numbers(erasure: Erasure) -> list[int]:
    return [appearance_number(one) for one in erasure.appearances]
