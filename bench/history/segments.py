"""Writes faces as history's sealed segments, without the hours that appending ten million takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.history.data import A_TRACK, DIMENSION, Data, Part
from bench.history.exact import Exact
from history_svc.appearances import Appearance
from history_svc.records import HAS_VECTOR, ROW, Header, Rows, appearance_number
from history_svc.sealed import build
from mesh.embeddings import FACE_MODEL

STORE = "store-1"
FACES = 65_536
"""Of a segment, as history seals them."""
_THREADS = 2
_CONFIDENCE = 0.9


def write(data: Data, directory: Path, exact: Exact) -> Iterator[int]:
    """Makes the segments, and hands the faces to `exact`. Gives the rows that are done, a segment at a time."""
    directory.mkdir(parents=True)

    def one(number: int) -> int:
        start = number * FACES
        part = data.part(start, min(start + FACES, data.rows))
        exact.put(part)
        _seal(directory, number + 1, part)
        return len(part.vectors)

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(one, range(-(-data.rows // FACES)))


def _seal(directory: Path, number: int, part: Part) -> None:
    """The one place that knows what history's segments are made of."""
    rows: Rows = np.zeros(len(part.vectors), ROW)
    rows["detection"] = part.ids
    rows["appearance"] = np.repeat(part.ids[::A_TRACK], A_TRACK)
    rows["time_ns"] = part.times_ns
    rows["flags"] = HAS_VECTOR
    rows["face_confidence"] = _CONFIDENCE
    content = build.Content(
        rows,
        [part.camera(row) for row in range(len(rows))],
        part.start + np.arange(len(rows)),
        part.vectors.astype(np.float16),
        part.owners,
        [_appearance(part, rows, first) for first in range(0, len(rows), A_TRACK)],
        [],
        next_face=part.start + len(rows),
        fresh=len(rows) // A_TRACK,
    )
    build.write(directory, Header(STORE, FACE_MODEL, DIMENSION), build.Place(number, number), content)


def _appearance(part: Part, rows: Rows, at: int) -> Appearance:
    first, last = rows[at], rows[at + A_TRACK - 1]
    total = part.vectors[at : at + A_TRACK].sum(axis=0)
    entry = first.tobytes()
    appearance = Appearance(
        first["detection"].tobytes(), part.camera(at), str((part.start + at) // A_TRACK), int(first["time_ns"]),
        int(last["time_ns"]), entry, last.tobytes(), entry, _CONFIDENCE, A_TRACK, A_TRACK,
    )  # fmt: skip
    appearance.face_sum, appearance.face_square = total, float(total @ total)
    appearance.number = appearance_number(appearance.id)
    return appearance
