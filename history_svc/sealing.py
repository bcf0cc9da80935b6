"""Moves closed log files into sealed segments, and small segments into larger ones, while appends and searches go on.

Of the loop's thread; the work is done in one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from history_svc import metrics
from history_svc.erasure import Erasures
from history_svc.ledger import Ledger, LogFile
from history_svc.log import DetectionLog
from history_svc.sealed.directory import Directory, SegmentDamaged
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealed.manifest import Damaged
from history_svc.sealed.merging import mergeable
from history_svc.settings import Settings

_log = structlog.get_logger(__name__)
_RETRY_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 60.0
_NS: Final = 1_000_000_000


class Sealing:
    """See the module. Segments and closed log files change only under `lock`."""

    def __init__(
        self,
        index: SegmentedIndex,
        directory: Directory,
        ledger: Ledger,
        log: DetectionLog,
        settings: Settings,
        erasures: Erasures,
        take: Callable[[SealedFaces, Sequence[LogFile]], Awaitable[None]],
    ) -> None:
        """`take` hands a new segment of log files to whoever asks. No new segment has what is being erased."""
        self._take = take
        self.lock = asyncio.Lock()
        self._index, self._directory, self._ledger, self._log = index, directory, ledger, log
        self._erasures = erasures
        self._faces, self._every_seconds = settings.seal_faces, settings.index_every_seconds
        self._verify_seconds = settings.verify_seconds
        self._span_ns = int(settings.seal_seconds * _NS)
        self._wake = asyncio.Event()
        self._wake.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seal")

    def wake(self) -> None:
        """There may be enough to seal."""
        self._wake.set()

    async def run(self) -> None:
        """Seals and merges whatever is due, for ever."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass  # log files get old, too
            self._wake.clear()
            while True:
                async with self.lock:
                    try:
                        worked = await self._seal_due() or await self._merge()
                    except (OSError, Damaged) as error:
                        metrics.SEAL_FAILURES.inc()
                        _log.error("seal_failed", error=str(error))
                        worked = None
                if worked is False:
                    break
                if worked is None:
                    await asyncio.sleep(_RETRY_SECONDS)

    async def verify(self) -> None:
        """Reads every segment now and then, and puts aside those that are damaged, for ever.

        Those that a search cannot read are looked at by the index at once.
        """
        loop = asyncio.get_running_loop()
        while True:
            for segment in self._index.segments:
                async with self.lock:
                    if segment not in self._index.segments:
                        continue
                    if not await loop.run_in_executor(self._thread, self._directory.verify, segment):
                        self._index.forget([segment])
            await asyncio.sleep(self._verify_seconds)

    async def clean(self, numbers: Collection[int], frames: Collection[str]) -> int:
        """Removes what is being erased of these appearances and frames from all closed files; returns how many had any.

        Under `lock`. Raises OSError, Damaged.
        """
        shelf = self._index.shelf
        holding = await asyncio.get_running_loop().run_in_executor(self._thread, shelf.holding, numbers, frames)
        logs = self._ledger.all()
        if logs:
            await self._seal(logs)
        for segment in holding:
            await self.rewrite([segment])
        return len(holding) + len(logs)

    async def rewrite(self, segments: Sequence[SealedFaces]) -> SealedFaces:
        """Makes one of these, without what is being erased. Under `lock`. Raises OSError, Damaged."""
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._thread, self._directory.rewrite, segments, self._erasures.erased)
        except SegmentDamaged as error:
            self._index.forget([error.segment])
            raise
        self._index.exchange(segments, made)
        await loop.run_in_executor(self._thread, self._directory.remove, segments)
        return made

    async def drop_before(self, time_ns: int) -> int:
        """Unlinks the segments that hold nothing from `time_ns` on; returns how many. Call it under `lock`."""
        expired = [one for one in self._index.segments if one.manifest.latest_ns < time_ns]
        if expired:
            self._index.forget(expired)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._directory.remove, expired)
        return len(expired)

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown()

    async def _seal_due(self) -> bool:
        logs = self._ledger.due()
        if logs:
            await self._seal(logs)
        return bool(logs)

    async def _seal(self, logs: Sequence[LogFile]) -> None:
        loop = asyncio.get_running_loop()
        segment = await loop.run_in_executor(
            self._thread, self._directory.seal, logs, self._every_seconds, self._erasures.erased
        )
        await self._take(segment, logs)
        paths = [one.closed.path for one in logs]
        self._ledger.drop(paths)
        await loop.run_in_executor(self._thread, self._log.remove, paths)
        manifest = segment.manifest
        _log.info("sealed", segment=manifest.directory, faces=manifest.faces, detections=manifest.rows)

    async def _merge(self) -> bool:
        wanted = mergeable([one.manifest for one in self._index.segments], self._faces, self._span_ns)
        if not wanted:
            return False
        made = await self.rewrite([one for one in self._index.segments if one.manifest in wanted])
        _log.info("merged", segments=len(wanted), segment=made.manifest.directory, faces=made.manifest.faces)
        return True
