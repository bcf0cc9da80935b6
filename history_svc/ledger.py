"""Which log files are closed, and what has to be known of each to seal it. Of the loop's thread."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from history_svc.appearances import Appearance
from history_svc.book import Book
from history_svc.log import Closed

_ROWS_PER_FACE = 8


@dataclass(frozen=True, slots=True)
class LogFile:
    """A closed log file."""

    closed: Closed
    epoch: int
    """Of the book while it was written."""
    rows: int
    faces: int
    repeats: frozenset[bytes]
    """Detections that it has, and that were stored before."""
    touched: dict[bytes, Appearance]
    """The state of each appearance that it has something of, as of its end."""


class Ledger:
    """See the module. `faces` fill a segment, and so does a log file that was closed `seconds` ago."""

    def __init__(self, book: Book, faces: int, seconds: float) -> None:
        self._book, self._faces_wanted, self._seconds = book, faces, seconds
        self._closed: list[LogFile] = []
        self._begin()

    @property
    def full(self) -> bool:
        """Whether what is in the file that is written fills a segment."""
        return _weight(self._rows, self._faces) >= self._faces_wanted

    def note(self, rows: int, faces: int, touched: Iterable[bytes]) -> None:
        """Something was added to the file that is written, and the book has it."""
        self._rows += rows
        self._faces += faces
        self._touched.update(dict.fromkeys(touched))

    def repeat(self, detection: bytes) -> None:
        """The file that is read has a detection that was stored before."""
        self._repeats.add(detection)

    def close(self, closed: Closed) -> None:
        """Nothing more comes to the file."""
        kept = {one: appearance for one in self._touched if (appearance := self._book.get(one)) is not None}
        touched = {one: appearance.copy() for one, appearance in kept.items()}
        epoch, repeats = self._book.epoch, frozenset(self._repeats)
        self._closed.append(LogFile(closed, epoch, self._rows, self._faces, repeats, touched))
        self._book.epoch += 1
        self._begin()

    def due(self) -> list[LogFile]:
        """The oldest closed files that are to become a segment; none when there is time."""
        total = 0
        for at, file in enumerate(self._closed):
            # Rows without a face take memory, too.
            total += _weight(file.rows, file.faces)
            if total >= self._faces_wanted:
                return self._closed[: at + 1]
        if self._closed and time.time() - self._closed[0].closed.time > self._seconds:
            return list(self._closed)
        return []

    def all(self) -> list[LogFile]:
        """All closed files."""
        return list(self._closed)

    def drop(self, paths: Collection[Path]) -> None:
        """These files are gone."""
        self._closed = [file for file in self._closed if file.closed.path not in paths]

    def _begin(self) -> None:
        self._rows = self._faces = 0
        self._repeats: set[bytes] = set()
        self._touched: dict[bytes, None] = {}


def _weight(rows: int, faces: int) -> int:
    return max(faces, rows // _ROWS_PER_FACE)
