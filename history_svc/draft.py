"""What a group of batches changes, decided before it is on disk and taken over only when it is.

A group that the disk refused leaves no trace, so that it can be sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from history_svc.appearances import Appearance, Rules, Vector
from history_svc.book import Book
from history_svc.records import FrameLink, Track


@dataclass(frozen=True, slots=True)
class Shelved:
    """What is in sealed segments, and not in the book, of all that a draft may ask for."""

    detections: Mapping[bytes, bytes] = field(default_factory=dict)
    """The appearances of detections."""
    appearances: Mapping[bytes, Appearance] = field(default_factory=dict)
    """With the sums of their faces."""
    by_track: dict[Track, list[Appearance]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.appearances.values():
            self.by_track.setdefault((one.camera, one.object_id), []).append(one)


class Draft:
    """Decisions on top of a Book. Use one per group: `commit` it once, or forget it."""

    def __init__(self, book: Book, rules: Rules, shelved: Shelved | None = None) -> None:
        self._book, self._rules = book, rules
        self._shelved = shelved or Shelved()
        self._changed: dict[bytes, Appearance] = {}
        self._by_track: dict[Track, list[Appearance]] = {}
        self._placed: dict[bytes, bytes] = {}
        self._detections: dict[bytes, list[tuple[bytes, int]]] = {}
        self._links: list[FrameLink] = []

    def known(self, detection: bytes) -> bytes | None:
        """The appearance of a detection that is stored, or is in this draft."""
        stored = self._book.appearance_of(detection)
        return (
            stored.id if stored is not None else self._placed.get(detection) or self._shelved.detections.get(detection)
        )

    def choose(self, detection: bytes, track: Track, time_ns: int, vector: Vector | None) -> tuple[bytes, float | None]:
        """The id of the appearance that a new detection belongs to, its own id when it begins one; and the likeness."""
        candidates = self._book.near(track, time_ns)
        shelved = self._shelved.by_track
        if shelved and track in shelved:
            candidates = candidates + [one for one in shelved[track] if self._book.get(one.id) is None]
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
        # Begun by a detection that is not there (its record was damaged): begin it with this one.
        appearance = self._change(appearance_id) or self._begin(
            Appearance(appearance_id, track[0], track[1], time_ns, time_ns, row, row)
        )
        appearance.see(row, time_ns, score, vector, likeness)
        self._placed[detection] = appearance_id
        self._detections.setdefault(appearance_id, []).append((detection, time_ns))

    def link(self, link: FrameLink) -> FrameLink | None:
        """Adds a frame to its appearances; returns what of it is new, None when all of it is known.

        An appearance that is gone is left out.
        """
        new = []
        for appearance_id in dict.fromkeys(link.appearances):
            appearance = self._change(appearance_id)
            if appearance is not None and all(one.id != link.frame.id for one in appearance.frames):
                appearance.show(link.frame)
                new.append(appearance_id)
        known = self._book.frame(link.frame.id) is not None or any(one.frame.id == link.frame.id for one in self._links)
        if not new and (known or link.appearances):
            return None
        change = FrameLink(link.frame, tuple(new))
        self._links.append(change)
        return change

    def commit(self) -> None:
        """Hands everything to the book."""
        for appearance in self._changed.values():
            kept = self._book.put(appearance)
            self._book.put_detections(kept, self._detections.get(appearance.id, []))
        for link in self._links:
            self._book.put_frame(link)

    def touched(self) -> Iterable[bytes]:
        """The ids of the appearances that this draft begins or changes."""
        return self._changed

    def changed(self) -> Iterable[Appearance]:
        """The appearances that this draft begins or changes, as it leaves them."""
        return self._changed.values()

    def _change(self, appearance_id: bytes) -> Appearance | None:
        """An appearance that may be changed here; None when there is none."""
        changed = self._changed.get(appearance_id)
        if changed is not None:
            return changed
        stored = self._book.get(appearance_id) or self._shelved.appearances.get(appearance_id)
        return None if stored is None else self._begin(stored.copy())

    def _begin(self, appearance: Appearance) -> Appearance:
        self._changed[appearance.id] = appearance
        self._by_track.setdefault((appearance.camera, appearance.object_id), []).append(appearance)
        return appearance
