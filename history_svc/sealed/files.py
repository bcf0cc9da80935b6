"""The one place where bytes of sealed segments go to disk and come from it. Calls block."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from history_svc.segments import fsync_directory

DRAFT: Final = ".draft"
_GONE: Final = ".gone"
_PART_BYTES: Final = 1 << 20
_PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Sums:
    """What a file must be: its size in bytes, its CRC-32 and its SHA-256 in hex."""

    size: int
    crc32: int
    sha256: str


def write(path: Path, content: bytes | memoryview) -> Sums:
    """Makes a new file durable; its name is durable with its directory (`publish`). Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Sums(len(content), zlib.crc32(content), hashlib.sha256(content).hexdigest())


def read(path: Path) -> bytes:
    """The whole file. Raises OSError."""
    return path.read_bytes()


def check(path: Path, wanted: Sums) -> bool:
    """Whether the file is what it must be, to the last bit. Leaves the page cache as it was. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
    return size == wanted.size and digest.hexdigest() == wanted.sha256


def publish(draft: Path, final: Path) -> None:
    """Gives a directory of durable files its name, at once and for good."""
    fsync_directory(draft)
    draft.rename(final)
    fsync_directory(final.parent)


def remove(directory: Path) -> None:
    """Removes a directory; a crash in between leaves none that looks whole."""
    gone = directory.with_name(directory.name + _GONE)
    directory.rename(gone)
    fsync_directory(directory.parent)
    shutil.rmtree(gone)


def clear_unfinished(parent: Path) -> None:
    """Removes what a crash left of `write` and `remove`."""
    for path in [*parent.glob(f"*{DRAFT}"), *parent.glob(f"*{_GONE}")]:
        shutil.rmtree(path)


class Mapped:
    """A file that is read in place. Its pages are the kernel's to drop, and `trim` takes them off this process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._map = mmap.mmap(self._fd, self._size, access=mmap.ACCESS_READ) if self._size else None
        if self._map is not None:
            # With the kernel's read-ahead of megabytes, each fault on a cold file takes 7 ms.
            self._map.madvise(mmap.MADV_RANDOM)

    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self._map) if self._map is not None else memoryview(b"")

    def prefetch(self, positions: NDArray[np.int64], size: int) -> None:
        """Has the kernel read `size` bytes from each of the rising positions, all at once."""
        first = positions // _PAGE
        last = (positions + size - 1) // _PAGE
        # Neighbours become one request.
        breaks = np.flatnonzero(first[1:] > last[:-1] + 1) + 1
        starts = first[np.concatenate(([0], breaks))]
        ends = last[np.concatenate((breaks - 1, [len(last) - 1]))] + 1
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            os.posix_fadvise(self._fd, start * _PAGE, (end - start) * _PAGE, os.POSIX_FADV_WILLNEED)

    def trim(self) -> None:
        """Takes the pages off this process; they stay in the page cache while there is room."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def __del__(self) -> None:
        # The mapping itself lives as long as anybody has a view of it.
        os.close(self._fd)
