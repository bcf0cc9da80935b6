"""The one seam that biometric bytes pass on their way to a disk or an object store, and back.

Encryption at rest belongs here and nowhere else: whoever stores content seals it first and opens it after reading.
`PLAIN` gives back what it was given; `vaulted.VaultSeam` seals with the key of the store. There are two kinds of
content:

- **whole** (`seal`, `open`): records of the log, a segment's faiss index, evidence frames. Read as one piece; what is
  stored may be longer, and `open` may refuse what was changed.
- **pages** (`seal_pages`, `map`): files of a segment that are larger than memory and read where they lie. Each byte of
  what is stored is where it was, as a cipher in counter mode leaves it, so that some rows can be opened without the
  rest; a few more may follow. Reads say what they are after: `Mapped.table` some rows of a wide table (the vectors:
  most of the bytes), which opens only those; `Mapped.view` all of a file, which a seam that cannot read in place opens
  into memory.

Checksums in manifests and in the log are of what is stored, so that damage is found without a key. What is no part of
anybody stays as it is: manifests (camera ids, times, sums), names of files, and the lengths and checksums of records.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mesh import vault
from mesh.vault import pages

_PAGE: Final = mmap.PAGESIZE


class Table(Protocol):
    """(n, width) values in a file, read by row."""

    def __len__(self) -> int:
        """How many rows."""

    def __getitem__(self, at: NDArray[np.intp] | slice) -> NDArray[Any]:
        """(k, width) the rows at these places."""


class Mapped:
    """A file that is read in place. Its pages are the kernel's to drop, and `trim` takes them off this process."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._map = mmap.mmap(self._fd, self._size, access=mmap.ACCESS_READ) if self._size else None
        if self._map is not None:
            # With the kernel's read-ahead of megabytes, each fault on a cold file takes 7 ms.
            self._map.madvise(mmap.MADV_RANDOM)

    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self._map) if self._map is not None else memoryview(b"")

    def table(self, dtype: str, width: int) -> Table:
        """All of it as rows of `width` values. Raises ValueError when it is none."""
        rows: NDArray[Any] = np.frombuffer(self.view(), dtype).reshape(-1, width)
        return rows

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

    @property
    def cut(self) -> bool:
        """Whether somebody has shortened the file. Reading beyond its end would end this process (SIGBUS)."""
        return os.fstat(self._fd).st_size < self._size

    def __del__(self) -> None:
        # The mapping itself lives as long as anybody has a view of it.
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)


class Seam:
    """See the module. Callable from any thread. A subclass overrides all of it, and is given to `History.open`."""

    def seal(self, content: bytes) -> bytes:
        """What may be stored in place of `content`. It may be longer."""
        return content

    def open(self, content: bytes) -> bytes:
        """The inverse of `seal`. Raises ValueError for what `seal` did not give.

        mesh.vault.Unopenable, which is one, says that the keys are not the right ones: nothing is wrong with the file.
        """
        return vault.PLAIN.open("", content, b"")

    def seal_pages(self, content: bytes | memoryview) -> bytes | memoryview:
        """What may be stored in place of a file that will be mapped. It may be longer, at its end."""
        return content

    def map(self, path: Path) -> Mapped:
        """A file of `seal_pages`, to be read where it lies. Raises OSError, and ValueError as `open`."""
        mapped = Mapped(path)
        if pages.is_sealed(mapped.view()[-pages.TRAILER_BYTES :]):
            raise vault.NoVault
        return mapped


PLAIN: Final = Seam()
"""Stores everything as it is."""
