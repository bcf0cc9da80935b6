"""The detection log: append-only files on the local disk. What `append` returned from is there after a power cut.

Calls block, and come from one thread at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from history_svc import metrics, segments
from history_svc.quarantine import Quarantine
from history_svc.seam import PLAIN, Seam
from mesh.vault import Unopenable

_log = structlog.get_logger(__name__)
_PREFIX = "detections-"
_SUFFIX = ".log"
_NAME = re.compile(rf"{_PREFIX}\d+{re.escape(_SUFFIX)}")
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of this process: nothing is wrong with the file."""


class DirectoryInUse(Exception):
    """Another process has the data directory."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A file that nothing more comes to. What is after its first `size` bytes was never acknowledged."""

    path: Path
    number: int
    size: int
    time: float
    """When it was written last, in s since 1970."""


class _Active:
    """The file that is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self.size = 0  # of what is durable
        self.begin = 0  # size of what each file begins with
        self.opened = time.monotonic()


class DetectionLog:
    """Files `detections-<number>.log` in a directory; each begins with the payload `header`.

    Opening takes a lock on the directory for the life of this object and its process.

    Raises:
        DirectoryInUse: another process has the lock.
        OSError: the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: Path,
        header: bytes,
        *,
        segment_bytes: int,
        segment_seconds: float,
        min_free_bytes: int = 0,
        quarantine: Quarantine | None = None,
        seam: Seam = PLAIN,
    ) -> None:
        """Damage goes to `quarantine`, by default that in the directory. Each record passes the seam.

        Nothing is appended while less than `min_free_bytes` of the disk are free, so that sealing always has room.
        """
        self._min_free = min_free_bytes
        self._directory, self._quarantine = directory, quarantine or Quarantine(directory / "quarantine")
        self._header, self._seam = header, seam
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory / "lock")
        for draft in directory.glob(f"{_PREFIX}*{segments.REPAIRED}"):
            draft.unlink()  # of a process that was killed; what it was made of is still there
        self._active: _Active | None = None
        self._newest: dict[Path, int] = {}  # of the files there are: time of the newest record, ns
        self._next = 1 + max(map(_number, self._files()), default=0)
        self._closed: list[Closed] = []

    def discard(self, first: int, last: int) -> None:
        """Unlinks the files with these numbers: what was in them is kept elsewhere. New ones get higher numbers."""
        for path in self._files():
            if first <= _number(path) <= last:
                if path.is_dir():
                    self._quarantine.take(path, "a file belongs here")
                else:
                    path.unlink()
        self._next = max(self._next, last + 1)

    def recover(self, apply: Callable[[bytes], int | None], closed: Callable[[Closed], None]) -> None:
        """Hands every sound record to `apply`, oldest first, and repairs what is damaged. Each file ends with `closed`.

        `apply` returns the record's event time in ns, None for one without a time, and raises ValueError for one it
        cannot read: that is reported and left out. The last file's torn tail is cut off; damage anywhere else is put
        aside. Raises mesh.vault.Unopenable when the keys are not there. Call once, before the first append.
        """
        files = self._files()
        self._next = max(self._next, 1 + self._quarantine.used()[0])
        for path in files:
            damaged: list[segments.Span] = []
            newest = 0
            if not self._readable(path):
                continue
            for found in segments.read(path):
                if isinstance(found, segments.Span):
                    damaged.append(found)
                    continue
                try:
                    newest = max(newest, apply(self._seam.open(found)) or 0)
                except Unopenable:
                    raise  # it is the keys that are wrong: nothing may be left out, and nothing written behind it
                except ValueError as error:
                    _log.error("record_unreadable", file=path.name, why=str(error))
            self._newest[path] = newest
            if damaged:
                self._repair(path, damaged, last=path == files[-1])
            found_now = path.stat()
            closed(Closed(path, _number(path), found_now.st_size, found_now.st_mtime))

    def append(self, payloads: list[bytes], newest_ns: int) -> None:
        """Makes the payloads durable, all or (as far as the caller may believe) none of them.

        `newest_ns` is the latest event time in them. Raises OSError when the disk does not take them: nothing that was
        appended before is lost, and the next call tries again in a new file.
        """
        started = time.perf_counter()
        if self._min_free:
            disk = os.statvfs(self._directory)
            if disk.f_bavail * disk.f_frsize < self._min_free:
                raise OSError(errno.ENOSPC, f"less than {self._min_free} bytes are free")
        active = self._active
        try:
            if active is None:
                active = self._active = self._create()
            parts: list[bytes] = []
            for payload in map(self._seam.seal, payloads):
                parts += (segments.frame(payload), payload)
            size = _write(active, b"".join(parts))
            os.fdatasync(active.fd)
            active.size = size
        except OSError:
            self._abandon()
            raise
        self._newest[active.path] = max(self._newest.get(active.path, 0), newest_ns)
        metrics.FSYNC_SECONDS.observe(time.perf_counter() - started)
        if active.size >= self._segment_bytes:
            self.roll()

    def take_closed(self) -> list[Closed]:
        """The files that nothing more comes to, since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def roll(self) -> None:
        """Ends the file that is written; the next record begins a new one."""
        if self._active is not None:
            self._close_active()

    def remove(self, paths: Collection[Path]) -> None:
        """Unlinks closed files: what was in them is kept elsewhere."""
        for path in paths:
            path.unlink(missing_ok=True)
            self._newest.pop(path, None)
        segments.fsync_directory(self._directory)

    def drop_before(self, time_ns: int) -> list[Path]:
        """Unlinks the files that hold nothing from `time_ns` on; returns them."""
        active = self._active
        if active is not None and (
            time.monotonic() - active.opened >= self._segment_seconds or self._newest.get(active.path, 0) < time_ns
        ):
            self.roll()
        expired = [
            path
            for path, newest in self._newest.items()
            if newest < time_ns and (self._active is None or path != self._active.path)
        ]
        if expired:
            self.remove(expired)
        return expired

    def close(self) -> None:
        """Closes the active file and gives the directory free. Nothing is waiting to be written."""
        self.roll()
        os.close(self._lock)

    def _files(self) -> list[Path]:
        found = self._directory.glob(f"{_PREFIX}*{_SUFFIX}")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def _create(self) -> _Active:
        path = self._directory / f"{_PREFIX}{self._next:012d}{_SUFFIX}"
        active = _Active(path)
        self._next += 1
        self._newest[path] = 0
        try:
            header = self._seam.seal(self._header)
            active.size = active.begin = _write(active, segments.frame(header) + header)
            os.fsync(active.fd)
            # Without this a power cut may take the file's name, and all that was acknowledged in it.
            segments.fsync_directory(self._directory)
        except OSError:
            os.close(active.fd)
            path.unlink(missing_ok=True)
            del self._newest[path]
            raise
        return active

    def _close_active(self) -> None:
        active, self._active = self._active, None
        assert active is not None, "only called with one"
        os.close(active.fd)
        self._closed.append(Closed(active.path, _number(active.path), active.size, time.time()))

    def _abandon(self) -> None:
        """After a failed write or sync the kernel may have dropped pages: end this file at what was acknowledged."""
        active, self._active = self._active, None
        if active is None:
            return
        try:
            os.ftruncate(active.fd, active.size)
            os.fsync(active.fd)
        except OSError as error:
            # What is left over has a checksum that fails, or is found again as a repeat: harmless either way.
            _log.warning("log_tail_not_cut", file=active.path.name, error=str(error))
        finally:
            os.close(active.fd)
        if active.size == active.begin:
            # Nothing was acknowledged in it. Left there, each try on a full disk would take a little more of it.
            active.path.unlink(missing_ok=True)
            self._newest.pop(active.path, None)
        else:
            self._closed.append(Closed(active.path, _number(active.path), active.size, time.time()))

    def _readable(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            if error.errno in _OURS:
                raise
            self._quarantine.take(path, f"it cannot be read: {error}")
            return False
        return True

    def _repair(self, path: Path, damaged: list[segments.Span], *, last: bool) -> None:
        try:
            if last and damaged[-1].end == path.stat().st_size:
                tail = damaged.pop()
                segments.cut_tail(path, tail.start)
                metrics.TRUNCATED_BYTES.inc(tail.end - tail.start)
                _log.warning("torn_tail_cut", file=path.name, offset=tail.start, bytes=tail.end - tail.start)
            if damaged:
                written = path.stat().st_mtime
                segments.cut_out(path, damaged, lambda name, content: self._quarantine.keep(name, content, written))
                lost = sum(span.end - span.start for span in damaged)
                metrics.QUARANTINED_BYTES.inc(lost)
                _log.error("damage_put_aside", file=path.name, places=len(damaged), bytes=lost)
        except OSError as error:
            # The sound records are served all the same; the next start tries again.
            _log.error("repair_failed", file=path.name, error=str(error))


def _number(path: Path) -> int:
    return int(path.stem.removeprefix(_PREFIX))


def _write(active: _Active, content: bytes) -> int:
    """Writes after what is durable, and returns where it ends."""
    view, offset = memoryview(content), active.size
    while view:
        written = os.pwrite(active.fd, view, offset)
        view, offset = view[written:], offset + written
    return offset


def _lock(path: Path) -> int:
    # A directory of that name does as well.
    fd = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise DirectoryInUse(f"{path.parent} is used by another process") from None
    return fd
