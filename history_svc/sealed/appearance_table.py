"""The appearances of a segment, as they were when it was made, by first sight; found by id, by track and by time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from history_svc.appearances import Appearance
from history_svc.records import ROW, Frame, Track, Vectors, appearance_numbers
from history_svc.sealed import arrow

_PLAIN = ("id", "object_id", "start_ns", "end_ns", "entry", "exit", "best", "best_score", "count", "face_count",
          "face_square", "camera", "has_sum", "frames")  # fmt: skip
_FEW: Final = 15
_FRAMES = pa.list_(
    pa.struct(
        [("id", pa.utf8()), ("camera", pa.utf8()), ("time_ns", pa.int64()), ("kind", pa.int32()), ("size", pa.int64())]
    )
)

Places = NDArray[np.intp]
"""(k,) places in a table."""


def encode(appearances: Sequence[Appearance], codes: dict[str, int], dimension: int) -> tuple[memoryview, bytes]:
    """The table, and the sums of faces, (n, dimension) float32. `codes` are the cameras' places in the manifest."""
    ordered = sorted(appearances, key=lambda one: (one.start_ns, one.id))
    numbers = np.array([one.number for one in ordered], np.int64)
    tracks = np.array([_track_key((one.camera, one.object_id)) for one in ordered], np.uint64)
    by_number, by_track = np.argsort(numbers, kind="stable"), np.argsort(tracks, kind="stable")
    sums = np.zeros((len(ordered), dimension), np.float32)
    for at, one in enumerate(ordered):
        if one.face_sum is not None:
            sums[at] = one.face_sum
    frames = [
        [{"id": f.id, "camera": f.camera, "time_ns": f.time_ns, "kind": f.kind, "size": f.size} for f in one.frames]
        for one in ordered
    ]
    columns = {
        "id": pa.array([one.id for one in ordered], pa.binary(arrow.ID_BYTES)),
        "camera": pa.array([codes[one.camera] for one in ordered], pa.int32()),
        "object_id": pa.array([one.object_id for one in ordered], pa.utf8()),
        "start_ns": pa.array([one.start_ns for one in ordered], pa.int64()),
        "end_ns": pa.array([one.end_ns for one in ordered], pa.int64()),
        "entry": pa.array([one.entry for one in ordered], pa.binary(ROW.itemsize)),
        "exit": pa.array([one.exit for one in ordered], pa.binary(ROW.itemsize)),
        "best": pa.array([one.best for one in ordered], pa.binary()),
        "best_score": pa.array([one.best_score for one in ordered], pa.float64()),
        "count": pa.array([one.count for one in ordered], pa.int64()),
        "face_count": pa.array([one.face_count for one in ordered], pa.int64()),
        "face_square": pa.array([one.face_square for one in ordered], pa.float64()),
        "has_sum": pa.array([int(one.face_sum is not None) for one in ordered], pa.uint8()),
        "frames": pa.array(frames, _FRAMES),
        "number": pa.array(numbers[by_number]),
        "number_place": pa.array(by_number.astype(np.uint32)),
        "track": pa.array(tracks[by_track]),
        "track_place": pa.array(by_track.astype(np.uint32)),
    }
    return arrow.encode(columns), sums.astype("<f4", copy=False).tobytes()


class AppearanceTable:
    """See the module. Any thread."""

    def __init__(self, content: memoryview, sums: memoryview, cameras: Sequence[str], dimension: int) -> None:
        """`cameras` as in the manifest. Raises ValueError."""
        self._batch = arrow.decode(content, anchor=True)
        self._cameras = cameras
        self._columns = [self._batch.column(name) for name in _PLAIN]
        self._codes = arrow.array(self._batch.column("camera"))
        self.starts: NDArray[np.int64] = arrow.array(self._batch.column("start_ns"))
        self.ends: NDArray[np.int64] = arrow.array(self._batch.column("end_ns"))
        self._sums: Vectors = np.frombuffer(sums, "<f4").reshape(len(self.starts), dimension)
        # In memory: every search looks here, in all segments.
        self._numbers: NDArray[np.int64] = arrow.array(self._batch.column("number")).copy()
        self._number_places: NDArray[np.uint32] = arrow.array(self._batch.column("number_place")).copy()
        self._tracks: NDArray[np.uint64] = arrow.array(self._batch.column("track"))
        self._track_places: NDArray[np.uint32] = arrow.array(self._batch.column("track_place"))

    def __len__(self) -> int:
        return len(self.starts)

    def with_numbers(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(k,) the places of the appearances with these numbers, -1 for those that are not here."""
        if not len(self._numbers):
            return np.full(len(numbers), -1, np.int64)
        at = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return np.where(self._numbers[at] == numbers, self._number_places[at].astype(np.int64), -1)

    def of_track(self, track: Track, start_ns: int, end_ns: int) -> Places:
        """Those of a track (and, rarely, of another one) that overlap [start_ns, end_ns]."""
        key = np.uint64(_track_key(track))
        first, last = np.searchsorted(self._tracks, key, "left"), np.searchsorted(self._tracks, key, "right")
        places = self._track_places[first:last].astype(np.intp)
        return places[(self.starts[places] <= end_ns) & (self.ends[places] >= start_ns)]

    def overlapping(self, start_ns: int, end_ns: int, cameras: Collection[str] | None) -> Places:
        """Those that overlap [start_ns, end_ns), on one of `cameras` (None: any); by (start, id)."""
        until = int(np.searchsorted(self.starts, end_ns))
        mask = self.ends[:until] >= start_ns
        if cameras is not None:
            wanted = [code for code, name in enumerate(self._cameras) if name in cameras]
            mask &= np.isin(self._codes[:until], wanted)
        return np.flatnonzero(mask)

    def ids(self, places: Places) -> list[bytes]:
        """Their ids."""
        return _values(self._columns[0], places.tolist())

    def read(self, places: Places | None = None, *, sums: bool = False) -> list[Appearance]:
        """The appearances at these places, or all; the sums of their faces only where asked for."""
        at = range(len(self.starts)) if places is None else places.tolist()
        columns = [_values(column, at) for column in self._columns]
        numbers = appearance_numbers(np.frombuffer(b"".join(columns[0]), f"V{arrow.ID_BYTES}")).tolist()
        found = []
        for place, number, (one, object_id, start, end, entry, last, best, score, count, faces, square, code, summed,
                            frames) in zip(at, numbers, zip(*columns, strict=True), strict=True):  # fmt: skip
            appearance = Appearance(one, self._cameras[code], object_id, start, end, entry, last, best, score)
            appearance.count, appearance.face_count, appearance.face_square = count, faces, square
            if summed and sums:
                appearance.face_sum = self._sums[place].astype(np.float32)
            appearance.frames = tuple(Frame(**frame) for frame in frames)
            appearance.number, appearance.shelved = number, True
            found.append(appearance)
        return found


def _values(column: Any, places: Sequence[int]) -> list[Any]:
    """What is at these places of a column. For a few, one by one: `take` alone costs as much as fifteen."""
    if len(places) > _FEW:
        values: list[Any] = column.take(pa.array(places)).to_pylist()
        return values
    return [column[place].as_py() for place in places]


def _track_key(track: Track) -> int:
    camera, object_id = track
    return int.from_bytes(hashlib.blake2b(f"{camera}\0{object_id}".encode(), digest_size=8).digest(), "little")
