"""Synthetic people who come by cameras: cosine about 0.75 between two faces of one, about 0 between strangers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from history_svc.records import Vectors, appearance_numbers
from mesh.embeddings import DIMENSIONS, FACE_MODEL, normalise

DIMENSION = DIMENSIONS[FACE_MODEL]
CAMERAS = [f"Camera_{number:02d}" for number in range(16)]
A_TRACK = 8
"""Faces of a track."""
_A_PERSON = 10
"""Tracks of a person, on average."""
_SAME = 0.75
_SEED = 20_261_121


@dataclass(frozen=True)
class Part:
    """Rows from `start` on: whole tracks of A_TRACK rows each, one row after the other in time."""

    start: int
    vectors: Vectors
    ids: NDArray[np.void]
    """(n,) V16, of the detections; a track is an appearance with the id of its first."""
    times_ns: NDArray[np.int64]

    @property
    def owners(self) -> NDArray[np.int64]:
        """(n,) what indexes call the rows' appearances."""
        return np.repeat(appearance_numbers(self.ids[::A_TRACK]), A_TRACK)

    def camera(self, row: int) -> str:
        """The camera of a row of this part."""
        return CAMERAS[(self.start + row) // A_TRACK % len(CAMERAS)]


class Data:
    """`rows` faces, spread evenly over [begin_ns, end_ns). The same for the same number of rows, whoever asks."""

    def __init__(self, rows: int, begin_ns: int, end_ns: int) -> None:
        self.rows = rows // A_TRACK * A_TRACK
        self.begin_ns, self.end_ns = begin_ns, end_ns
        random = np.random.default_rng(_SEED)
        people = max(1, rows // (A_TRACK * _A_PERSON))
        self._centres = normalise(random.standard_normal((people, DIMENSION), np.float32))
        self._tracks = random.integers(0, people, self.rows // A_TRACK)

    def part(self, start: int, end: int) -> Part:
        """Rows from `start` to `end`, multiples of A_TRACK. Independent of other parts: threads may share the work."""
        random = np.random.default_rng((_SEED, start))
        places = np.arange(start, end)
        step = (self.end_ns - self.begin_ns) // self.rows
        return Part(
            start,
            _faces(self._centres[self._tracks[places // A_TRACK]], random),
            np.frombuffer(random.bytes(16 * len(places)), "V16"),
            self.begin_ns + places * step,
        )

    def queries(self, count: int, seed: int) -> tuple[Vectors, Vectors]:
        """Of so many people the mean face, and a new photo each: two (count, DIMENSION)."""
        random = np.random.default_rng((_SEED, seed))
        seen = np.unique(self._tracks)
        centres = self._centres[random.choice(seen, count, replace=count > len(seen))]
        return centres, _faces(centres, random)


def _faces(centres: Vectors, random: np.random.Generator) -> Vectors:
    """A face of each: with noise, so that two of one person have a cosine of about _SAME."""
    noise = random.standard_normal(centres.shape, np.float32) / np.float32(np.sqrt(DIMENSION))
    return normalise(centres * np.float32(np.sqrt(_SAME)) + noise * np.float32(np.sqrt(1 - _SAME)))
