"""What of a group of batches is in sealed segments already, or was erased. Of the loop's thread, but for `shelved`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from history_svc.book import Book
from history_svc.draft import Shelved
from history_svc.erasure import Erasures
from history_svc.records import Track
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex

Sight = tuple[Track, int]
"""An object on a camera, and when: ns since 1970."""


class Stored:
    """Knows up to when segments have something of a camera, so that what is new is not looked for on disk."""

    def __init__(self, index: SegmentedIndex, book: Book, erasures: Erasures, gap_ns: int) -> None:
        self._index, self._book, self._erasures, self._gap_ns = index, book, erasures, gap_ns
        self._rows_ns: dict[str, int] = {}
        self._ends_ns: dict[str, int] = {}

    def note(self, segment: SealedFaces) -> None:
        """A segment is among those of the index now."""
        known = segment.manifest
        for camera, row_ns, end_ns in zip(known.cameras, known.camera_rows_ns, known.camera_ends_ns, strict=True):
            self._rows_ns[camera] = max(self._rows_ns.get(camera, -1), row_ns)
            self._ends_ns[camera] = max(self._ends_ns.get(camera, -1), end_ns)

    def erased(self, detections: Sequence[bytes]) -> dict[bytes, bytes]:
        """The appearance of each detection that was erased."""
        found = ((one, self._erasures.appearance_of(one)) for one in detections)
        return {detection: appearance for detection, appearance in found if appearance is not None}

    def needed(self, sights: Sequence[Sight], appearances: Collection[bytes]) -> bool:
        """Whether segments may have anything of detections at these sights, or of these appearances."""
        rows, ends, gap = self._rows_ns, self._ends_ns, self._gap_ns
        return any(
            time_ns <= rows.get(track[0], -1) or time_ns - gap <= ends.get(track[0], -1) for track, time_ns in sights
        ) or any(self._book.get(one) is None for one in appearances)

    def shelved(self, detections: Sequence[bytes], sights: Sequence[Sight], appearances: Collection[bytes]) -> Shelved:
        """What segments have of detections, of tracks near these sights, and of appearances. Blocks.

        Nothing may change the book meanwhile.
        """
        shelf = self._index.shelf
        rows, ends, gap = self._rows_ns, self._ends_ns, self._gap_ns
        known = {}
        old = [at for at, (track, time_ns) in enumerate(sights) if time_ns <= rows.get(track[0], -1)]
        if old:
            times = np.array([sights[at][1] for at in old], np.int64)
            known = shelf.detections([detections[at] for at in old], times)
        near = [sight for sight in sights if sight[1] - gap <= ends.get(sight[0][0], -1)]
        found = shelf.near(near, gap) if near else {}
        found |= shelf.with_ids([one for one in appearances if self._book.get(one) is None], sums=True)
        gone = self._erasures.erased.appearances
        return Shelved(
            known, {key: one for key, one in found.items() if self._book.get(key) is None and key not in gone}
        )
