"""What was found damaged, kept for somebody to look at: `quarantine/` in the data directory.

Damaged segments are there as directories; damaged pieces of the log, and whatever stood where it could not be, as
files. It all holds biometric data as it was stored, so nothing is kept for longer than what is sound.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from history_svc import metrics
from history_svc.sealed import manifest
from history_svc.sealed.manifest import Damaged
from history_svc.segments import fsync_directory, write_durably

_log = structlog.get_logger(__name__)
_SEGMENT: Final = re.compile(r"\d+-(\d+)\.\d+")


class Quarantine:
    """See the module. Any thread. Blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._watchers: list[Callable[[bool], object]] = []
        self._count()

    def watch(self, tell: Callable[[bool], object]) -> None:
        """Calls `tell` now and after each change, in whatever thread made it: whether nothing is in here."""
        self._watchers.append(tell)
        self._count()

    def keep(self, name: str, content: bytes, written: float) -> bool:
        """Stores a copy of damaged bytes that were written at a time in s since 1970; False when it is here already.

        Raises OSError.
        """
        with self._lock:
            self._make()
            target, number = self._directory / name, 0
            while target.exists():
                if target.is_file() and target.read_bytes() == content:
                    return False
                number += 1
                target = self._directory / f"{name}.{number}"
            write_durably(target, content)
            os.utime(target, (written, written))
            fsync_directory(self._directory)
            self._count()
        return True

    def take(self, path: Path, why: str) -> None:
        """Moves a file or a directory in here. When that fails it stays where it is, and is reported all the same."""
        with self._lock:
            if not path.exists():
                return  # somebody else was faster
            try:
                self._make()
                target, number = self._directory / path.name, 0
                while target.exists():
                    number += 1
                    target = self._directory / f"{path.name}.{number}"
                path.rename(target)
                fsync_directory(self._directory)
                fsync_directory(path.parent)
            except OSError as error:
                # It is not served all the same; the next start tries again.
                _log.error("put_aside_failed", what=path.name, error=str(error))
            else:
                _log.error("put_aside", what=path.name, why=why)
            self._count()

    def make_way(self, path: Path) -> None:
        """What stands where a directory belongs, and is none, is put aside."""
        if path.exists() and not path.is_dir():
            self.take(path, "a directory belongs here")

    def used(self) -> tuple[int, int]:
        """The last log file and the next face of the segments in here, 0 without one.

        Those that come next get higher numbers, so that a segment can be restored.
        """
        last_log = next_face = 0
        for entry in self._entries():
            name = _SEGMENT.match(entry.name)
            if name is None:
                continue
            last_log = max(last_log, int(name[1]))
            with suppress(Damaged):
                next_face = max(next_face, manifest.read(entry).next_face)
        return last_log, next_face

    def drop_before(self, time_ns: int) -> int:
        """Deletes what has nothing newer than `time_ns`, as far as one can tell; returns how many. Raises OSError."""
        return self._delete([one for one in self._entries() if _newest_ns(one) < time_ns])

    def clear(self) -> int:
        """Deletes everything; returns how many files. Raises OSError."""
        entries = self._entries()
        files = sum(one.is_file() for entry in entries for one in (entry, *entry.rglob("*")))
        self._delete(entries)
        return files

    def _delete(self, entries: list[Path]) -> int:
        with self._lock:
            for one in entries:
                if one.is_dir() and not one.is_symlink():
                    shutil.rmtree(one)
                else:
                    one.unlink(missing_ok=True)
            self._count()  # also when nothing was: somebody may have done it by hand
        for one in entries:
            _log.info("quarantine_deleted", what=one.name)
        return len(entries)

    def _make(self) -> None:
        if self._directory.exists() and not self._directory.is_dir():
            aside = self._directory.with_name(self._directory.name + ".file")
            self._directory.rename(aside)
            self._directory.mkdir()
            aside.rename(self._directory / aside.name)
        self._directory.mkdir(exist_ok=True)

    def _entries(self) -> list[Path]:
        if self._directory.is_dir():
            return list(self._directory.iterdir())
        return [self._directory] if self._directory.exists() else []

    def _count(self) -> None:
        entries = self._entries()
        segments = sum(one.is_dir() for one in entries)
        metrics.QUARANTINED_SEGMENTS.set(segments)
        metrics.QUARANTINED_FILES.set(len(entries) - segments)
        for tell in self._watchers:
            tell(not entries)


def _newest_ns(entry: Path) -> int:
    """The time of the newest event in it, or else when it was written."""
    try:
        if not entry.is_dir():
            return entry.stat().st_mtime_ns
        try:
            return manifest.read(entry).latest_ns
        except Damaged:
            return max((one.stat().st_mtime_ns for one in entry.rglob("*")), default=entry.stat().st_mtime_ns)
    except FileNotFoundError:
        return 0
