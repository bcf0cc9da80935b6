"""What a group of batches changes, decided before it is on disk and taken over only when it is.

A group that the disk refused leaves no trace, so that it can be sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType

from history_svc.appearances import Appearance, Rules, Vector
from history_svc.book import Book
from history_svc.records import FrameLink, Track


class Draft:
    """Decisions on top of a Book. Use one per group: `commit` it once, or forget it."""

    def __init__(self, book: Book, rules: Rules, sealed: Mapping[bytes, bytes] = MappingProxyType({})) -> None:
        """`sealed` has the appearances of those detections that are stored, but not in the book."""
        self._book, self._rules, self._sealed = book, rules, sealed
        self._changed: dict[bytes, Appearance] = {}
        self._by_track: dict[Track, list[Appearance]] = {}
        self._placed: dict[bytes, bytes] = {}
        self._detections: dict[bytes, list[tuple[bytes, int]]] = {}
        self._links: list[FrameLink] = []

    def known(self, detection: bytes) -> bytes | None:
        """The appearance of a detection that is stored, or is in this draft."""
        stored = self._book.appearance_of(detection)
        return stored.id if stored is not None else self._placed.get(detection) or self._sealed.get(detection)

    def choose(self, detection: bytes, track: Track, time_ns: int, vector: Vector | None) -> tuple[bytes, float | None]:
        """The id of the appearance that a new detection belongs to, its own id when it begins one; and the likeness."""
        candidates = self._book.near(track, time_ns)
        mine = self._by_track.get(track)
        if mine is not None:
            candidates = mine + [one for one in candidates if one.id not in self._changed]
        chosen, likeness = self._rules.choose(candidates, time_ns, vector)
        return (detection if chosen is None else chosen.id), likeness

    def place(
        self,
        detection: bytes,
        appearance_id: bytes,
        track: Track,
        time_ns: int,
        row: bytes,
        score: float,
        vector: Vector | None,
        likeness: float | None = None,
    ) -> None:
        """Adds a detection to an appearance, which is begun where it does not exist. The arguments are as in `see`."""
        appearance = self._changed.get(appearance_id)
        if appearance is None:
            stored = self._book.get(appearance_id)
            # Begun by a detection that is not there (its record was damaged): begin it with this one.
            appearance = (
                stored.copy()
                if stored is not None
                else Appearance(appearance_id, track[0], track[1], time_ns, time_ns, row, row)
            )
            self._changed[appearance_id] = appearance
            self._by_track.setdefault(track, []).append(appearance)
        appearance.see(row, time_ns, score, vector, likeness)
        self._placed[detection] = appearance_id
        self._detections.setdefault(appearance_id, []).append((detection, time_ns))

    def link(self, link: FrameLink) -> FrameLink | None:
        """Adds a frame with its appearances; returns what of it is new, None when all of it is known."""
        known = self._book.frame(link.frame.id) is not None
        shown = set(self._book.frame_appearances(link.frame.id))
        for earlier in self._links:
            if earlier.frame.id == link.frame.id:
                known = True
                shown.update(earlier.appearances)
        new = tuple(one for one in dict.fromkeys(link.appearances) if one not in shown)
        if known and not new:
            return None
        change = FrameLink(link.frame, new)
        self._links.append(change)
        return change

    def has(self, appearance_id: bytes) -> bool:
        """Whether there is such an appearance."""
        return appearance_id in self._changed or self._book.get(appearance_id) is not None

    def commit(self) -> None:
        """Hands everything to the book."""
        for appearance in self._changed.values():
            kept = self._book.put(appearance)
            self._book.put_detections(kept, self._detections.get(appearance.id, []))
        for link in self._links:
            self._book.put_frame(link.frame, link.appearances)

    def touched(self) -> Iterable[bytes]:
        """The ids of the appearances that this draft begins or changes."""
        return chain(self._changed, *(link.appearances for link in self._links))
