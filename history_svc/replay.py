"""Rebuilds memory from the log at start. What was decided is in the records; nothing is decided again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from history_svc.appearances import Rules
from history_svc.book import Book
from history_svc.draft import Draft
from history_svc.index import Faces, HistoryIndex
from history_svc.intake import face_score
from history_svc.ledger import Ledger
from history_svc.log import Closed
from history_svc.records import HAS_VECTOR, ROW, Detections, FrameLink, Header, decode, raw_ids


class OtherData(Exception):
    """The data directory belongs to another store, or holds embeddings of another model."""

    @classmethod
    def of(cls, found: Header, wanted: Header) -> OtherData:
        """`found` is in the directory, not `wanted`."""
        return cls(f"holds {found.model} embeddings of store {found.store}, not {wanted.model} of {wanted.store}")


Find = Callable[[Sequence[bytes], NDArray[np.int64]], dict[bytes, bytes]]
"""sealed.index.SegmentedIndex.find"""


def _none(_detections: Sequence[bytes], _times: NDArray[np.int64]) -> dict[bytes, bytes]:
    return {}


class Replay:
    """Hands the records of a log to a book and an index."""

    def __init__(
        self, header: Header, book: Book, index: HistoryIndex, rules: Rules, ledger: Ledger, find: Find = _none
    ) -> None:
        """`find` knows the appearances of detections in sealed segments."""
        self._header, self._book, self._index, self._rules, self._ledger = header, book, index, rules, ledger
        self._find = find
        self._payload = -1  # of the file that is read

    def closed(self, closed: Closed) -> None:
        """The records after this are another file's."""
        self._ledger.close(closed)
        self._payload = -1

    def apply(self, payload: bytes) -> int | None:
        """Takes one record over; returns its newest event time in ns, None when it has none.

        Raises ValueError for a record that cannot be read, OtherData for one that is not ours.
        """
        self._payload += 1
        content = decode(payload, self._header.dimension)
        if isinstance(content, Header):
            if content != self._header:
                raise OtherData.of(content, self._header)
            return None
        if isinstance(content, FrameLink):
            self._book.put_frame(content.frame, content.appearances)
            self._ledger.note(0, 0, content.appearances)
            return content.frame.time_ns
        return self._apply_detections(content)

    def _apply_detections(self, batch: Detections) -> int | None:
        rows = batch.rows
        if not len(rows):
            return None
        raw, size = rows.tobytes(), ROW.itemsize
        flags = rows["flags"].tolist()
        detections, appearances = raw_ids(rows["detection"]), raw_ids(rows["appearance"])
        times, tracks = rows["time_ns"].tolist(), [batch.tracks[track] for track in rows["track"].tolist()]
        confidences = rows["face_confidence"].tolist()
        areas = (rows["face_box"][:, 2].astype(np.float64) * rows["face_box"][:, 3]).tolist()
        draft = Draft(self._book, self._rules, self._find(detections, rows["time_ns"]))
        taken: list[int] = []
        taken_faces: list[int] = []
        face = -1
        for at, detection in enumerate(detections):
            vector = None
            if flags[at] & HAS_VECTOR:
                face += 1
                vector = batch.vectors[face]
            # Written but not acknowledged, then sent and written again.
            if draft.known(detection) is not None:
                self._ledger.repeat(self._payload, at)
                continue
            row = raw[at * size : (at + 1) * size]
            score = face_score(flags[at], confidences[at], areas[at])
            draft.place(detection, appearances[at], tracks[at], times[at], row, score, vector)
            if vector is not None:
                taken.append(at)
                taken_faces.append(face)
        draft.commit()
        self._ledger.note(len(rows), len(taken), draft.touched())
        if taken:
            numbers = batch.first_face + np.array(taken_faces, np.int64)
            self._index.add(
                Faces(
                    numbers,
                    np.array([self._number(appearances[at]) for at in taken], np.int64),
                    [tracks[at][0] for at in taken],
                    rows[taken],
                    batch.vectors[taken_faces],
                )
            )
        return int(max(times))

    def _number(self, appearance_id: bytes) -> int:
        appearance = self._book.get(appearance_id)
        assert appearance is not None, "committed above"
        return appearance.number
