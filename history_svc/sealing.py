"""Moves closed log files into sealed segments, while appends and searches go on. Of the loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from history_svc import metrics
from history_svc.ledger import Ledger, LogFile
from history_svc.log import DetectionLog
from history_svc.sealed.directory import Directory
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealed.manifest import Damaged

_log = structlog.get_logger(__name__)
_RETRY_SECONDS: Final = 5.0


class Sealing:
    """See the module. Segments and closed log files change only under `lock`."""

    def __init__(
        self,
        index: SegmentedIndex,
        directory: Directory,
        ledger: Ledger,
        log: DetectionLog,
        faces: int,
        take: Callable[[SealedFaces], Awaitable[None]],
    ) -> None:
        """`faces` fill a segment; `take` hands a new one to whoever asks."""
        self._take = take
        self.lock = asyncio.Lock()
        self._index, self._directory, self._ledger, self._log, self._faces = index, directory, ledger, log, faces
        self._wake = asyncio.Event()
        self._wake.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seal")

    def wake(self) -> None:
        """There may be enough to seal."""
        self._wake.set()

    async def run(self) -> None:
        """Seals whatever fills a segment, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while True:
                async with self.lock:
                    logs = self._ledger.full(self._faces)
                    sealed = bool(logs) and await self._seal(logs)
                if not logs:
                    break
                if not sealed:
                    await asyncio.sleep(_RETRY_SECONDS)

    async def verify(self) -> None:
        """Reads every segment that there is now, and puts aside those that are damaged."""
        loop = asyncio.get_running_loop()
        for segment in self._index.segments:
            async with self.lock:
                if segment not in self._index.segments:
                    continue
                if not await loop.run_in_executor(self._thread, self._directory.verify, segment):
                    self._index.forget([segment])

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

    async def _seal(self, logs: list[LogFile]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            segment = await loop.run_in_executor(self._thread, self._directory.seal, logs)
        except (OSError, Damaged) as error:
            metrics.SEAL_FAILURES.inc()
            _log.error("seal_failed", error=str(error), log_files=len(logs))
            return False
        await self._take(segment)
        paths = [one.closed.path for one in logs]
        self._ledger.drop(paths)
        await loop.run_in_executor(self._thread, self._log.remove, paths)
        manifest = segment.manifest
        _log.info("sealed", segment=manifest.directory, faces=manifest.faces, detections=manifest.rows)
        return True
