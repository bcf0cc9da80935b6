"""The faces of a track as one: pooled, a blurred or turned face neither alerts nor hides anybody.

A camera's tracker gives one person many faces. Their mean, each weighed by how good it is, is nearer to that person's
references than most of them, and what is compared with the gallery. A pool is of this replica and of the last faces:
it is gone after a restart, and the track's next face begins another.

Trackers give an id that is free to the next person. A face goes to the pool of its track that it fits; one that fits
none begins another. A track has two of them, so that a single bad face (the back of a head) puts an end to none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from match_svc.index import Floats, Positions

_GAP_SECONDS = 10.0
"""A face that the camera took so long before or after those of a pool is none of its, as in history's appearances."""
_OTHER_PERSON = 0.2
"""A face with a lower cosine than this is clearly another person's, as in history's appearances. Of two faces of one
person 0.1 % (aligned) to 0.5 % are so unlike, of two persons' faces 98 to 96 % (calibration on LFW)."""
_FULL_WIDTH_PX = 40.0
"""Narrower faces lose recall: TAR at cosine 0.45 is .957 at 40 px, .880 at 24, .737 at 18 (LFW)."""
_LEAST_WEIGHT = 0.05
_GOOD = 0.5
"""A face of this weight is a good one: 20 px wide, or found with half of the detector's confidence."""
_ESTABLISHED = 2
"""A pool of so many faces is somebody: a single face that contradicts it is doubtful."""
_SECONDS_UNUSED = 300.0
"""Pools that had no face for so long are wiped: faces are not kept for longer than they are of use."""
_LEAST_NORM = np.float32(1e-3)


class Track(NamedTuple):
    """A person as a camera's tracker follows them."""

    camera: str
    """`stores/{store}/cameras/{camera}`."""
    object_id: str


class Pooled(NamedTuple):
    """What is to be compared with the gallery for each of n faces."""

    faces: Floats
    """(n, d), L2-normalised: of each face the pool that it is in, with itself."""
    counts: NDArray[np.int32]
    """(n,) how many faces that is."""
    margins: Floats
    """(n,) by how much a match must exceed its threshold: above 0 for a face that stands alone."""
    restarted: NDArray[np.bool_]
    """(n,) whether it begins a pool on a track that had faces of somebody else before."""


def weights(widths: Sequence[float], confidences: Sequence[float]) -> Floats:
    """(n,) what faces count for, 0.05 to 1, from the width of their boxes in pixels and the detector's confidence.

    Proportional to both, 40 px and more being full width. What is not above 0 is unknown and taken as the best.
    """
    width, confidence = np.array(widths, np.float32), np.array(confidences, np.float32)
    width[~(width > 0.0)] = _FULL_WIDTH_PX
    confidence[~(confidence > 0.0)] = 1.0
    weight: Floats = np.minimum(width / np.float32(_FULL_WIDTH_PX), 1.0) * np.minimum(confidence, 1.0)
    return np.maximum(weight, np.float32(_LEAST_WEIGHT))


def unpooled(faces: Floats) -> Pooled:
    """Faces that are compared as they are."""
    count = len(faces)
    return Pooled(faces, np.ones(count, np.int32), np.zeros(count, np.float32), np.zeros(count, np.bool_))


class Pools:
    """The pools of the tracks that were seen last. Of one thread."""

    def __init__(self, tracks: int, faces: int, lone_margin: float, doubtful_margin: float, dimension: int) -> None:
        """Memory for `tracks` tracks, more than a batch has: 2 KB each at 256 dimensions, taken when first used.

        A pool is of the last `faces` good faces or so: older ones fade out, so that it follows a person who turns, and
        whoever takes their place however alike. A face that stands alone must exceed thresholds by `lone_margin`; one
        that is poor, or contradicts what its track showed so far, by `doubtful_margin`.
        """
        self._most = np.float32(faces)
        self._lone_margin = np.float32(lone_margin)
        self._doubtful_margin = np.float32(doubtful_margin)
        self._tracks = tracks
        # Slot i is the first pool of entry i, slot tracks + i its second.
        self._sums = np.zeros((2 * tracks, dimension), np.float32)
        self._norms = np.ones(2 * tracks, np.float32)
        self._weights = np.ones(2 * tracks, np.float32)
        self._counts = np.zeros(2 * tracks, np.int32)
        self._begun = np.zeros(2 * tracks)  # seconds of the camera's clock
        self._last = np.zeros(2 * tracks)
        self._used = np.full(tracks, np.inf)  # seconds of this machine's clock
        self._keys: list[tuple[Track, bool] | None] = [None] * tracks
        self._free = list(range(tracks - 1, -1, -1))
        # Aligned and unaligned faces of one photo have a cosine of 0.81 only: they are never mixed.
        self._entries: dict[bool, dict[Track, int]] = {False: {}, True: {}}
        self._sweep_at = time.monotonic() + _SECONDS_UNUSED

    def __len__(self) -> int:
        """Tracks that have a pool."""
        return self._tracks - len(self._free)

    def add(
        self,
        tracks: Sequence[Track],
        is_aligned: NDArray[np.bool_],
        faces: Floats,
        times: NDArray[np.float64],
        weight: Floats,
    ) -> Pooled:
        """Pool n faces, in order: `faces` (n, d) of norm 1, `times` (n,) in seconds by the camera's clock, `weight`.

        A face that is not later than all of its pool is not added to it (it may be a repeat), but compared with it. A
        vector that is not finite is never added. Raises ValueError for more faces than there is room for tracks.
        """
        if not len(tracks):
            return unpooled(faces)
        entries = np.array(self._places(tracks, is_aligned.tolist()), np.intp)
        if len(set(entries.tolist())) == len(entries):
            return self._pool(entries, faces, times, weight)
        out = unpooled(np.empty_like(faces))
        for round_ in _rounds(entries.tolist()):
            at = np.array(round_)
            for column, part in zip(out, self._pool(entries[at], faces[at], times[at], weight[at]), strict=True):
                column[at] = part
        return out

    def _pool(self, entries: Positions, faces: Floats, times: NDArray[np.float64], weight: Floats) -> Pooled:
        """One face each of different tracks."""
        each = np.arange(len(entries))
        slots = np.stack((entries, entries + self._tracks))
        counts, begun, last = self._counts[slots], self._begun[slots], self._last[slots]
        held = (counts > 0) & (times <= last + _GAP_SECONDS)
        near = held & (times >= begun - _GAP_SECONDS)
        fit = np.full(slots.shape, -1.0, np.float32)
        which, at = np.nonzero(near)
        if at.size:
            pools = slots[which, at]
            fit[which, at] = np.einsum("ij,ij->i", self._sums[pools], faces[at]) / self._norms[pools]
        fits = fit.max(axis=0) >= _OTHER_PERSON
        # One that fits neither takes the place of the smaller pool, or of one that has ended.
        size = np.where(held, counts, 0)
        smaller = (size[1] < size[0]) | ((size[1] == size[0]) & (size[1] > 0) & (last[1] < last[0]))
        chosen = np.where(fits, fit[1] > fit[0], smaller).astype(np.intp)

        mine = slots[chosen, each]
        pooled = ~fits | (times > last[chosen, each])
        added = np.where(pooled, weight, np.float32(0.0))
        before = self._weights[mine]
        kept = np.where(fits, np.minimum(np.float32(1.0), (self._most - added) / before), np.float32(0.0))
        sums = self._sums[mine] * kept[:, None]
        sums += faces * added[:, None]
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        count = np.where(fits, counts[chosen, each] + pooled, 1).astype(np.int32)

        sound = (norms > _LEAST_NORM) & (norms < np.inf)
        stored: slice | Positions = slice(None) if sound.all() else np.flatnonzero(sound)
        changed = mine[stored]
        self._sums[changed] = sums[stored]
        self._norms[changed] = norms[stored]
        self._weights[changed] = (before * kept + added)[stored]
        self._counts[changed] = count[stored]
        self._last[changed] = np.where(pooled, times, last[chosen, each])[stored]
        self._begun[changed] = np.where(fits, begun[chosen, each], times)[stored]

        contradicts = near[1 - chosen, each] & (counts[1 - chosen, each] >= _ESTABLISHED)
        margin = np.where(contradicts | (weight < _GOOD), self._doubtful_margin, self._lone_margin)
        return Pooled(
            sums / np.maximum(norms, _LEAST_NORM)[:, None],
            count,
            np.where(count == 1, margin, np.float32(0.0)),
            ~fits & (counts > 0).any(axis=0),
        )

    def _places(self, tracks: Sequence[Track], is_aligned: Sequence[bool]) -> list[int]:
        """The entries of tracks; new ones where they have none."""
        now = time.monotonic()
        if len(tracks) > self._tracks:
            raise ValueError(f"{len(tracks)} faces at once, with room for {self._tracks} tracks")
        if now >= self._sweep_at:
            self._sweep_at = now + _SECONDS_UNUSED / 4
            self._wipe(np.flatnonzero(self._used < now - _SECONDS_UNUSED))
        if len(self._free) < len(tracks):
            count = max(len(tracks) - len(self._free), self._tracks // 8)
            self._wipe(np.argpartition(self._used, count - 1)[:count])
        places = []
        for track, aligned in zip(tracks, is_aligned, strict=True):
            entries = self._entries[aligned]
            place = entries.get(track)
            if place is None:
                place = entries[track] = self._free.pop()
                self._keys[place] = track, aligned
            places.append(place)
        self._used[places] = now
        return places

    def _wipe(self, places: Positions) -> None:
        for place in places.tolist():
            key = self._keys[place]
            if key is None:
                continue
            del self._entries[key[1]][key[0]]
            self._keys[place] = None
            self._free.append(place)
            for slot in (place, place + self._tracks):
                if self._counts[slot]:
                    self._sums[slot] = 0.0
                    self._counts[slot] = 0
        self._used[places] = np.inf


def _rounds(entries: Sequence[int]) -> list[list[int]]:
    """Positions such that each round has an entry once, and each entry's come in order."""
    rounds: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, entry in enumerate(entries):
        turn = seen.get(entry, 0)
        seen[entry] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(position)
    return rounds
