"""The directory of sealed segments: opens what is sound, and puts aside what is not. Calls block."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from history_svc import metrics
from history_svc.ledger import LogFile
from history_svc.quarantine import Quarantine
from history_svc.records import Erased, Header
from history_svc.sealed import build, files, gather, manifest
from history_svc.sealed.build import Content, Place
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.manifest import Damaged
from history_svc.seam import PLAIN, Seam
from history_svc.segments import fsync_directory
from mesh.vault import Unopenable

_log = structlog.get_logger(__name__)
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of this process: nothing is wrong with the file."""


class SegmentDamaged(Damaged):
    """Of several segments this one is damaged, and was put aside."""

    def __init__(self, segment: SealedFaces) -> None:
        super().__init__(f"{segment.manifest.directory} is damaged")
        self.segment = segment


class Directory:
    """Segments under `path`; damaged ones go to `quarantine`. Raises OSError when it cannot be made or written."""

    def __init__(self, path: Path, quarantine: Quarantine, header: Header, seam: Seam = PLAIN) -> None:
        self._path, self._quarantine, self.header, self._seam = path, quarantine, header, seam
        quarantine.make_way(path)
        path.mkdir(parents=True, exist_ok=True)
        fsync_directory(path.parent)
        files.clear_unfinished(path)

    def open(self, threads: int) -> list[SealedFaces]:
        """All sound segments, oldest first. What others stand for is removed."""
        for path in self._path.iterdir():
            if not path.is_dir():
                self._quarantine.take(path, "no segment")
        paths = sorted(self._path.iterdir())
        with ThreadPoolExecutor(threads) as pool:
            opened = [one for one in pool.map(self._open, paths) if one is not None]
        replaced = [one for one in opened if any(other.manifest.replaces(one.manifest) for other in opened
                                                 if other is not one)]  # fmt: skip
        self.remove(replaced)
        return [one for one in opened if one not in replaced]

    def seal(self, logs: Sequence[LogFile], every_seconds: float, erased: Erased) -> SealedFaces:
        """Makes a segment of log files (gather.from_logs). Raises Damaged when it cannot be read again, OSError."""
        place = Place(logs[0].closed.number, logs[-1].closed.number)
        return self._write(
            place, gather.from_logs(self.header, logs, every_seconds, erased, self._quarantine, self._seam)
        )

    def rewrite(self, segments: Sequence[SealedFaces], erased: Erased) -> SealedFaces:
        """Makes one segment of several, oldest first, without what was erased. Raises as `seal`, and leaves them.

        What is damaged must not become part of what is sound: raises SegmentDamaged.
        """
        for one in segments:
            if not self.verify(one):
                raise SegmentDamaged(one)
        first, last = segments[0].manifest, segments[-1].manifest
        place = Place(first.first_log, last.last_log, 1 + max(one.manifest.generation for one in segments))
        return self._write(place, gather.from_segments(segments, erased))

    def remove(self, segments: Sequence[SealedFaces]) -> None:
        """Unlinks segments. Searches that read them go on."""
        for one in segments:
            files.remove(self._path / one.manifest.directory)

    def verify(self, segment: SealedFaces) -> bool:
        """Reads all of a segment; False when it is damaged, and then it is put aside. Any thread."""
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
                if error.errno in _OURS:
                    raise
                why = f"{name} cannot be read: {error}"
            self._quarantine.take(directory, why)
            return False
        return True

    def _write(self, place: Place, content: Content) -> SealedFaces:
        started = time.perf_counter()
        written = build.write(self._path, self.header, place, content, self._seam)
        metrics.SEAL_SECONDS.observe(time.perf_counter() - started)
        try:
            return SealedFaces(self._path / written.directory, written, self._seam)
        except Exception:
            # It will be made again, under the same name.
            files.remove(self._path / written.directory)
            raise

    def _open(self, directory: Path) -> SealedFaces | None:
        try:
            known = manifest.load(directory)
            if known.header != self.header:
                raise OtherHeader(known.header)
            return SealedFaces(directory, known, self._seam)
        except (OtherHeader, Unopenable):
            raise
        except Exception as error:  # whatever a library makes of a damaged file
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OURS):
                raise
            self._quarantine.take(directory, f"{type(error).__name__}: {error}")
            return None


class OtherHeader(Exception):
    """A segment belongs to another store, or holds embeddings of another model."""

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.header = header
