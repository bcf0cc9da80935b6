"""The directory of sealed segments: opens what is sound, and puts aside what is not. Calls block."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from history_svc import metrics
from history_svc.ledger import LogFile
from history_svc.records import Erased, Header
from history_svc.sealed import build, files, gather, manifest
from history_svc.sealed.build import Content, Place
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.manifest import Damaged
from history_svc.segments import fsync_directory

_log = structlog.get_logger(__name__)


class Directory:
    """Segments under `path`; damaged ones go to `quarantine`. Raises OSError when it cannot be made or written."""

    def __init__(self, path: Path, quarantine: Path, header: Header) -> None:
        self._path, self._quarantine, self._header = path, quarantine, header
        path.mkdir(parents=True, exist_ok=True)
        fsync_directory(path.parent)
        files.clear_unfinished(path)

    def open(self, threads: int) -> list[SealedFaces]:
        """All sound segments, oldest first. What others stand for is removed."""
        paths = sorted(path for path in self._path.iterdir() if path.is_dir())
        with ThreadPoolExecutor(threads) as pool:
            opened = [one for one in pool.map(self._open, paths) if one is not None]
        replaced = [one for one in opened if any(other.manifest.replaces(one.manifest) for other in opened
                                                 if other is not one)]  # fmt: skip
        self.remove(replaced)
        return [one for one in opened if one not in replaced]

    def seal(self, logs: Sequence[LogFile], every_seconds: float, erased: Erased) -> SealedFaces:
        """Makes a segment of log files (gather.from_logs). Raises Damaged when it cannot be read again, OSError."""
        place = Place(logs[0].closed.number, logs[-1].closed.number)
        return self._write(place, gather.from_logs(self._header, logs, every_seconds, erased))

    def rewrite(self, segments: Sequence[SealedFaces], erased: Erased) -> SealedFaces:
        """Makes one segment of several, oldest first, without what was erased. Raises as `seal`, and leaves them."""
        first, last = segments[0].manifest, segments[-1].manifest
        place = Place(first.first_log, last.last_log, 1 + max(one.manifest.generation for one in segments))
        return self._write(place, gather.from_segments(segments, erased))

    def remove(self, segments: Sequence[SealedFaces]) -> None:
        """Unlinks segments. Searches that read them go on."""
        for one in segments:
            files.remove(self._path / one.manifest.directory)

    def verify(self, segment: SealedFaces) -> bool:
        """Reads all of a segment; False when it is damaged, and then it is put aside."""
        directory = self._path / segment.manifest.directory
        for name, sums in segment.manifest.files.items():
            try:
                if files.check(directory / name, sums):
                    continue
                why = f"the checksum of {name} is wrong"
            except FileNotFoundError:
                if not directory.exists():
                    return True  # it was removed meanwhile
                why = f"{name} is missing"
            except OSError as error:
                why = f"{name} cannot be read: {error}"
            self.put_aside(directory, why)
            return False
        return True

    def put_aside(self, directory: Path, why: str) -> None:
        """Moves a damaged segment away, and says so."""
        metrics.QUARANTINED_SEGMENTS.inc()
        _log.error("segment_put_aside", segment=directory.name, why=why)
        self._quarantine.mkdir(exist_ok=True)
        try:
            target = self._quarantine / directory.name
            for number in range(1, 1000):
                if not target.exists():
                    break
                target = self._quarantine / f"{directory.name}.{number}"
            directory.rename(target)
            fsync_directory(self._quarantine)
            fsync_directory(self._path)
        except OSError as error:
            # It is not served all the same; the next start tries again.
            _log.error("put_aside_failed", segment=directory.name, error=str(error))

    def _write(self, place: Place, content: Content) -> SealedFaces:
        started = time.perf_counter()
        written = build.write(self._path, self._header, place, content)
        metrics.SEAL_SECONDS.observe(time.perf_counter() - started)
        return SealedFaces(self._path / written.directory, written)

    def _open(self, directory: Path) -> SealedFaces | None:
        try:
            known = manifest.load(directory)
            if known.header != self._header:
                raise OtherHeader(known.header)
            return SealedFaces(directory, known)
        except (Damaged, ValueError, OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # nothing is wrong with it
            self.put_aside(directory, str(error))
            return None


class OtherHeader(Exception):
    """A segment belongs to another store, or holds embeddings of another model."""

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.header = header
