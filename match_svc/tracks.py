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
_NORM, _WEIGHT, _COUNT, _BEGUN, _LAST = range(5)
"""Columns of what is known of a pool: of the sum of its faces the norm and the weight, how many they are, and the
seconds of the first and last by the camera's clock."""
_EMPTY = (1.0, 1.0, 0.0, 0.0, 0.0)


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


class _Choice(NamedTuple):
    slot: int
    fits: bool
    """The pool that is there; else the face begins one."""
    contradicts: bool
    """Another pool of the track is somebody, and not long ago."""
    restarts: bool


def weights(widths: NDArray[np.float64], confidences: NDArray[np.float64]) -> Floats:
    """(n,) what faces count for, 0.05 to 1, from the width of their boxes in pixels and the detector's confidence.

    Proportional to both, 40 px and more being full width. What is not above 0 is unknown and taken as the best.
    """
    width = np.where(widths > 0.0, np.minimum(widths / _FULL_WIDTH_PX, 1.0), 1.0)
    confidence = np.where(confidences > 0.0, np.minimum(confidences, 1.0), 1.0)
    weight: Floats = np.maximum(width * confidence, _LEAST_WEIGHT).astype(np.float32)
    return weight


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
        self._most = float(faces)
        self._lone_margin = np.float32(lone_margin)
        self._doubtful_margin = np.float32(doubtful_margin)
        self._tracks = tracks
        # Slot i is the first pool of entry i, slot tracks + i its second.
        self._sums = np.zeros((2 * tracks, dimension), np.float32)
        self._state = np.tile(_EMPTY, (2 * tracks, 1))
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
        places = self._places(tracks, is_aligned.tolist())
        entries = np.array(places, np.intp)
        self._used[entries] = time.monotonic()
        if len(set(places)) == len(places):
            return self._pool(entries, faces, times, weight)
        out = unpooled(np.empty_like(faces))
        for round_ in _rounds(places):
            at = np.array(round_, np.intp)
            for column, part in zip(out, self._pool(entries[at], faces[at], times[at], weight[at]), strict=True):
                column[at] = part
        return out

    def _pool(self, entries: Positions, faces: Floats, times: NDArray[np.float64], weight: Floats) -> Pooled:
        """One face each of different tracks."""
        state, sums = self._state[entries], self._sums.take(entries, axis=0)
        fits = np.vecdot(sums, faces) >= _OTHER_PERSON * state[:, _NORM]
        fits &= (times <= state[:, _LAST] + _GAP_SECONDS) & (times >= state[:, _BEGUN] - _GAP_SECONDS)
        fits &= state[:, _COUNT] > 0
        slots, doubtful, restarted = entries, weight < _GOOD, np.zeros(len(entries), np.bool_)
        # Nearly all go on with the first and only pool of their track.
        usual = fits & (self._state[entries + self._tracks, _COUNT] == 0)
        if not usual.all():
            slots = entries.copy()
            for at in np.flatnonzero(~usual).tolist():
                choice = self._choose(int(entries[at]), faces[at], float(times[at]))
                slots[at], fits[at], restarted[at] = choice.slot, choice.fits, choice.restarts
                doubtful[at] |= choice.contradicts
                state[at], sums[at] = self._state[choice.slot], self._sums[choice.slot]

        pooled = ~fits | (times > state[:, _LAST])
        added = np.where(pooled, weight, np.float32(0.0))
        kept = np.where(fits, np.minimum(1.0, (self._most - added) / state[:, _WEIGHT]), 0.0)
        sums *= kept.astype(np.float32)[:, None]
        sums += faces * added[:, None]
        norms = np.sqrt(np.vecdot(sums, sums))
        count = np.where(fits, state[:, _COUNT] + pooled, 1)
        state[:, _NORM] = norms
        state[:, _WEIGHT] = state[:, _WEIGHT] * kept + added
        state[:, _COUNT] = count
        state[:, _BEGUN] = np.where(fits, state[:, _BEGUN], times)
        state[:, _LAST] = np.where(pooled, times, state[:, _LAST])
        sound = (norms > _LEAST_NORM) & (norms < np.inf)
        if sound.all():
            self._sums[slots], self._state[slots] = sums, state
        else:
            self._sums[slots[sound]], self._state[slots[sound]] = sums[sound], state[sound]

        margins = np.where(doubtful, self._doubtful_margin, self._lone_margin)
        margins[count > 1] = 0.0
        sums *= (np.float32(1.0) / np.maximum(norms, _LEAST_NORM))[:, None]
        return Pooled(sums, count.astype(np.int32), margins, restarted)

    def _choose(self, entry: int, face: Floats, time_: float) -> _Choice:
        """The pool of its track that a face fits best; else it begins one in place of the smaller, or of none."""
        near: list[tuple[float, int, float]] = []  # fit, slot, count
        held: list[tuple[float, float, int]] = []
        spare: list[int] = []
        restarts = False
        for slot in (entry, entry + self._tracks):
            norm, _, count, begun, last = self._state[slot].tolist()
            restarts |= count > 0
            if count and time_ <= last + _GAP_SECONDS:
                held.append((count, last, slot))
                if time_ >= begun - _GAP_SECONDS:
                    near.append((float(self._sums[slot] @ face) / norm, slot, count))
            else:
                spare.append(slot)
        fit, chosen, _ = max(near, default=(-1.0, -1, 0.0))
        fits = fit >= _OTHER_PERSON
        if not fits:
            chosen = spare[0] if spare else min(held)[2]
        contradicts = any(slot != chosen and count >= _ESTABLISHED for _, slot, count in near)
        return _Choice(chosen, fits, contradicts, restarts and not fits)

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
                if self._state[slot, _COUNT]:
                    self._sums[slot], self._state[slot] = 0.0, _EMPTY
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
