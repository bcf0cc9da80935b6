"""Appearances in memory: which detections belong together, and all that is known of each.

An appearance is one person in front of one camera: the same camera and object id, no gap over the limit, and no face
that is clearly another person's, because trackers recycle ids. `book.Book` holds what is durable; `draft.Draft` what is
decided but not yet on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from history_svc.records import Frame

Vector = NDArray[np.float32]
_TINY = 1e-12  # faces that cancel each other out have no mean


@dataclass(slots=True, eq=False)
class Appearance:
    """One appearance. `entry`, `exit` and `best` are packed rows (records.PACKED); `best` is empty without a face."""

    id: bytes
    """The id of the detection that came first, 16 bytes."""
    camera: str
    object_id: str
    start_ns: int
    end_ns: int
    entry: bytes
    exit: bytes
    best: bytes = b""
    best_score: float = -1.0
    count: int = 0
    face_count: int = 0
    face_sum: Vector | None = None
    """Sum of the face vectors, (d,) float32; None without one."""
    face_square: float = 0.0
    """Squared norm of `face_sum`."""
    frames: tuple[Frame, ...] = ()
    number: int = -1
    """What the index calls it (records.appearance_numbers); -1 in a draft."""
    shelved: bool = False
    """A state of it is in a sealed segment."""
    epoch: int = 0
    """Of the book when it was put there last."""

    def copy(self) -> Appearance:
        """Another one that can be changed without changing this one (copy.copy takes five times as long)."""
        return Appearance(
            self.id, self.camera, self.object_id, self.start_ns, self.end_ns, self.entry, self.exit, self.best,
            self.best_score, self.count, self.face_count, self.face_sum, self.face_square, self.frames, self.number,
            self.shelved, self.epoch,
        )  # fmt: skip

    def assign(self, other: Appearance) -> None:
        """Takes over what a copy of this one became."""
        self.start_ns, self.end_ns, self.entry, self.exit = other.start_ns, other.end_ns, other.entry, other.exit
        self.best, self.best_score, self.count, self.face_count = (
            other.best,
            other.best_score,
            other.count,
            other.face_count,
        )
        self.face_sum, self.face_square, self.frames = other.face_sum, other.face_square, other.frames

    def see(self, row: bytes, time_ns: int, score: float, vector: Vector | None, likeness: float | None) -> None:
        """Adds a detection: its packed row, its time, how good its face is (below 0: none), its (d,) face vector.

        `likeness` is the dot product of that vector with `face_sum` where it is known already.
        """
        self.count += 1
        if time_ns < self.start_ns:
            self.start_ns, self.entry = time_ns, row
        # Of several at one moment the last to arrive is the exit.
        if time_ns >= self.end_ns:
            self.end_ns, self.exit = time_ns, row
        if score >= 0.0:
            self.face_count += 1
            if score > self.best_score:
                self.best, self.best_score = row, score
        if vector is not None:
            if self.face_sum is None:
                self.face_sum, self.face_square = vector.copy(), 1.0
            else:
                if likeness is None:
                    likeness = float(self.face_sum.dot(vector))
                # A new array, not `+=`: a copy of this appearance may share the old one.
                self.face_sum = self.face_sum + vector
                self.face_square += 2.0 * likeness + 1.0

    def show(self, frame: Frame) -> None:
        """Adds an evidence frame of it."""
        frames = {one.id: one for one in (*self.frames, frame)}
        self.frames = tuple(sorted(frames.values(), key=lambda one: (one.time_ns, one.id)))

    def distance_ns(self, time_ns: int) -> int:
        """Time between `time_ns` and this appearance, 0 within it."""
        return max(self.start_ns - time_ns, time_ns - self.end_ns, 0)


@dataclass(frozen=True, slots=True)
class Rules:
    """When a detection begins a new appearance."""

    gap_ns: int
    """After more than so much time without the object."""
    other_person: float
    """When its face has a lower cosine than this to the mean face of each appearance within the gap."""

    def choose(
        self, candidates: list[Appearance], time_ns: int, vector: Vector | None
    ) -> tuple[Appearance | None, float | None]:
        """The appearance of the track that a detection belongs to, None when it begins a new one; and `see`'s likeness.

        `candidates` are the track's appearances; those out of the gap are left out here. A face goes where it fits
        best, so that one bad face (the back of a head) splits nothing for good; one without goes to the latest.
        """
        gap_ns = self.gap_ns
        near = [one for one in candidates if one.start_ns - gap_ns <= time_ns <= one.end_ns + gap_ns]
        if not near:
            return None, None
        if vector is not None:
            best: tuple[float, int, bytes] | None = None
            chosen, chosen_likeness = None, 0.0
            for one in near:
                if one.face_sum is not None:
                    likeness = float(one.face_sum.dot(vector))
                    fit = (likeness / math.sqrt(max(one.face_square, _TINY)), one.end_ns, one.id)
                    if best is None or fit > best:
                        best, chosen, chosen_likeness = fit, one, likeness
            if best is not None and best[0] >= self.other_person:
                return chosen, chosen_likeness
            # One without a face so far contradicts nothing.
            near = [one for one in near if one.face_sum is None]
        if len(near) > 1:
            near.sort(key=lambda one: (-one.distance_ns(time_ns), one.end_ns, one.id))
        return (near[-1] if near else None), None
