"""Which log files are closed, and what has to be known of each to seal it. Of the loop's thread."""

from __future__ import annotations

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
    rows: int
    faces: int
    repeats: frozenset[tuple[int, int]]
    """(payload, row) of rows that stand in an earlier place, too."""
    touched: dict[bytes, Appearance]
    """The state of each appearance that it has something of, as of its end."""


class Ledger:
    """See the module."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._closed: list[LogFile] = []
        self._begin()

    @property
    def open_faces(self) -> int:
        """Faces in the file that is written."""
        return self._faces

    def note(self, rows: int, faces: int, touched: Iterable[bytes]) -> None:
        """Something was added to the file that is written, and the book has it."""
        self._rows += rows
        self._faces += faces
        self._touched.update(dict.fromkeys(touched))

    def repeat(self, payload: int, row: int) -> None:
        """A row of the file that is read is left out."""
        self._repeats.add((payload, row))

    def close(self, closed: Closed) -> None:
        """Nothing more comes to the file."""
        kept = {one: appearance for one in self._touched if (appearance := self._book.get(one)) is not None}
        touched = {one: appearance.copy() for one, appearance in kept.items()}
        self._closed.append(LogFile(closed, self._rows, self._faces, frozenset(self._repeats), touched))
        self._begin()

    def full(self, faces: int) -> list[LogFile]:
        """The oldest closed files that fill a segment of so many faces; none when they do not yet."""
        total = 0
        for at, file in enumerate(self._closed):
            # Rows without a face take memory, too.
            total += max(file.faces, file.rows // _ROWS_PER_FACE)
            if total >= faces:
                return self._closed[: at + 1]
        return []

    def drop(self, paths: Collection[Path]) -> None:
        """These files are gone."""
        self._closed = [file for file in self._closed if file.closed.path not in paths]

    def _begin(self) -> None:
        self._rows = self._faces = 0
        self._repeats: set[tuple[int, int]] = set()
        self._touched: dict[bytes, None] = {}
