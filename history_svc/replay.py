"""Rebuilds memory from the log at start. What was decided is in the records; nothing is decided again."""

from __future__ import annotations

import numpy as np

from history_svc.appearances import Rules
from history_svc.book import Book
from history_svc.draft import Draft
from history_svc.index import Faces, HistoryIndex
from history_svc.intake import face_scores
from history_svc.ledger import Ledger
from history_svc.log import Closed
from history_svc.records import (
    HAS_VECTOR,
    ROW,
    Detections,
    Erased,
    FrameLink,
    Header,
    appearance_numbers,
    decode,
    raw_ids,
    rounded,
)
from history_svc.stored import Stored


class OtherData(Exception):
    """The data directory belongs to another store, or holds embeddings of another model."""

    @classmethod
    def of(cls, found: Header, wanted: Header) -> OtherData:
        """`found` is in the directory, not `wanted`."""
        return cls(f"holds {found.model} embeddings of store {found.store}, not {wanted.model} of {wanted.store}")


class Replay:
    """Hands the records of a log to a book and an index."""

    def __init__(
        self,
        header: Header,
        book: Book,
        index: HistoryIndex,
        rules: Rules,
        ledger: Ledger,
        stored: Stored,
        erased: Erased,
    ) -> None:
        """What was `erased` is left out."""
        self._header, self._book, self._index, self._rules, self._ledger = header, book, index, rules, ledger
        self._stored, self._erased = stored, erased
        self._here: set[bytes] = set()  # detections of the file that is read

    def closed(self, closed: Closed) -> None:
        """The records after this are another file's."""
        self._ledger.close(closed)
        self._here.clear()

    def apply(self, payload: bytes) -> int | None:
        """Takes one record over; returns its newest event time in ns, None when it has none.

        Raises ValueError for a record that cannot be read, OtherData for one that is not ours.
        """
        content = decode(payload, self._header.dimension)
        if isinstance(content, Header):
            if content != self._header:
                raise OtherData.of(content, self._header)
            return None
        if isinstance(content, FrameLink):
            return self._apply_frame(content)
        return self._apply_detections(content)

    def _apply_frame(self, link: FrameLink) -> int:
        if link.frame.id not in self._erased.frames:
            draft = Draft(self._book, self._rules, self._stored.shelved((), (), link.appearances))
            draft.link(link)
            draft.commit()
            self._ledger.note(0, 0, draft.touched())
        return link.frame.time_ns

    def _apply_detections(self, batch: Detections) -> int | None:
        rows = batch.rows
        if not len(rows):
            return None
        raw, size = rows.tobytes(), ROW.itemsize
        flags = rows["flags"].tolist()
        detections, appearances = raw_ids(rows["detection"]), raw_ids(rows["appearance"])
        times, tracks = rows["time_ns"].tolist(), [batch.tracks[track] for track in rows["track"].tolist()]
        scores = face_scores(rows).tolist()
        sights = list(zip(tracks, times, strict=True))
        # An appearance that a segment has, and that goes on here, is near.
        draft = Draft(self._book, self._rules, self._stored.shelved(detections, sights, ()))
        taken: list[int] = []
        taken_faces: list[int] = []
        face = -1
        for at, detection in enumerate(detections):
            vector = None
            if flags[at] & HAS_VECTOR:
                face += 1
                vector = batch.vectors[face]
            if appearances[at] in self._erased.appearances:
                continue
            # Written but not acknowledged, then sent and written again.
            if draft.known(detection) is not None:
                if detection not in self._here:
                    self._ledger.repeat(detection)
                continue
            row = raw[at * size : (at + 1) * size]
            draft.place(detection, appearances[at], tracks[at], times[at], row, scores[at], vector)
            self._here.add(detection)
            if vector is not None:
                taken.append(at)
                taken_faces.append(face)
        draft.commit()
        self._ledger.note(len(rows), len(taken), draft.touched())
        if taken:
            self._index.add(
                Faces(
                    batch.first_face + np.array(taken_faces, np.int64),
                    appearance_numbers(rows["appearance"][taken]),
                    [tracks[at][0] for at in taken],
                    rows[taken],
                    rounded(batch.vectors[taken_faces]),
                )
            )
        return int(max(times))
