"""The directory of sealed segments: opens what is sound, and puts aside what is not. Calls block."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from history_svc import metrics
from history_svc.ledger import LogFile
from history_svc.records import Header
from history_svc.sealed import build, files, manifest
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

    def open(self) -> list[SealedFaces]:
        """All sound segments, oldest first."""
        opened = (self._open(path) for path in sorted(self._path.iterdir()) if path.is_dir())
        return [one for one in opened if one is not None]

    def seal(self, logs: Sequence[LogFile]) -> SealedFaces:
        """Makes a segment of log files. Raises Damaged when they cannot be read, OSError."""
        started = time.perf_counter()
        written = build.seal(self._path, self._header, logs)
        metrics.SEAL_SECONDS.observe(time.perf_counter() - started)
        return SealedFaces(self._path / written.directory, written)

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
