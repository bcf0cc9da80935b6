"""Where faces are searched: the interface that every index has, and the exact one in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from history_svc.records import ROW, Rows, Vectors

CHUNK_ROWS: Final = 65_536
_BLOCK_ROWS: Final = 4096
_FOREVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Faces:
    """n faces to add: `numbers` (n,) int64 rising over all calls, `appearances` (n,) int64 (Appearance.number)."""

    numbers: NDArray[np.int64]
    appearances: NDArray[np.int64]
    cameras: Sequence[str]
    rows: Rows
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Probes:
    """Who is looked for: q templates, each (q, d), for faces that were aligned and for those that were not."""

    aligned: Vectors
    unaligned: Vectors


@dataclass(frozen=True, slots=True)
class Scope:
    """Which faces are searched: time in [start_ns, end_ns), one of `cameras` (None: any), number below `before`."""

    start_ns: int = -_FOREVER
    end_ns: int = _FOREVER
    cameras: Collection[str] | None = None
    before: int = _FOREVER


@dataclass(frozen=True, slots=True)
class Hits:
    """The most similar face of each of h appearances, in no order: three (h,) arrays and the faces' (h,) rows."""

    appearances: NDArray[np.int64]
    similarities: NDArray[np.float32]
    numbers: NDArray[np.int64]
    rows: Rows


class HistoryIndex(Protocol):
    """Searches the faces of the retention time. `add` and `drop_before` come from one thread, `search` from any."""

    def __len__(self) -> int:
        """How many faces it has. MAY count some that are too old until they are freed."""

    @property
    def next_number(self) -> int:
        """One more than the highest number that was ever added."""

    def add(self, faces: Faces) -> None:
        """Adds faces. MUST NOT wait for searches; a search that runs MAY miss them."""

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        """All appearances with a face that has at least this cosine to one of the probes, exactly.

        MUST give the same similarities for the same scope when only faces with numbers from `scope.before` on came in
        between. Blocks: call it in a thread.
        """

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        """The faces of one appearance. Blocks: call it in a thread."""

    def drop_before(self, time_ns: int) -> None:
        """No face older than this is ever found again."""

    def close(self) -> None:
        """Frees threads and memory."""


class _Chunk:
    """Up to `capacity` faces in columns. Rows below `size` never change, so readers need no lock."""

    def __init__(self, dimension: int, capacity: int) -> None:
        # Zeros cost nothing until written (the kernel's), and let a search compute over whole blocks.
        self.vectors: Vectors = np.zeros((capacity, dimension), np.float32)
        self.rows: Rows = np.zeros(capacity, ROW)
        self.times = np.zeros(capacity, np.int64)
        self.numbers = np.zeros(capacity, np.int64)
        self.appearances = np.zeros(capacity, np.int64)
        self.cameras = np.zeros(capacity, np.int32)
        self.aligned = np.zeros(capacity, np.bool_)
        self.size = 0
        self.oldest, self.newest = _FOREVER, -_FOREVER

    def append(self, faces: Faces, cameras: NDArray[np.int32], start: int, end: int) -> None:
        at, to = self.size, self.size + end - start
        rows = faces.rows[start:end]
        times = rows["time_ns"]
        self.vectors[at:to] = faces.vectors[start:end]
        self.rows[at:to] = rows
        self.times[at:to] = times
        self.numbers[at:to] = faces.numbers[start:end]
        self.appearances[at:to] = faces.appearances[start:end]
        self.cameras[at:to] = cameras[start:end]
        self.aligned[at:to] = rows["alignment"] == common_pb2.ALIGNMENT_ALIGNED
        self.oldest, self.newest = min(self.oldest, int(times.min())), max(self.newest, int(times.max()))
        self.size = to  # last: now readers see them

    def wanted(self, start: int, end: int, scope: Scope, cameras: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """(end - start,) which rows the scope asks for; `cameras` by camera index."""
        times = self.times[start:end]
        mask = (times >= scope.start_ns) & (times < scope.end_ns) & (self.numbers[start:end] < scope.before)
        if cameras is not None:
            mask &= cameras[self.cameras[start:end]]
        return mask


class ExactIndex:
    """A HistoryIndex in memory: blocked matrix products over all faces in scope. For up to a few million faces."""

    def __init__(self, dimension: int, threads: int, chunk_rows: int = CHUNK_ROWS) -> None:
        self._dimension, self._chunk_rows = dimension, chunk_rows
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._chunks: tuple[_Chunk, ...] = ()
        self._cameras: dict[str, int] = {}
        self._floor = -_FOREVER
        self._next_number = 0

    def __len__(self) -> int:
        return sum(chunk.size for chunk in self._chunks)

    @property
    def next_number(self) -> int:
        return self._next_number

    def add(self, faces: Faces) -> None:
        total = len(faces.numbers)
        if not total:
            return
        known = self._cameras
        cameras = np.array([known.setdefault(camera, len(known)) for camera in faces.cameras], np.int32)
        start = 0
        while start < total:
            if not self._chunks or self._chunks[-1].size == self._chunk_rows:
                self._chunks = (*self._chunks, _Chunk(self._dimension, self._chunk_rows))
            chunk = self._chunks[-1]
            end = min(total, start + self._chunk_rows - chunk.size)
            chunk.append(faces, cameras, start, end)
            start = end
        self._next_number = max(self._next_number, int(faces.numbers[-1]) + 1)

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        same = probes.aligned is probes.unaligned or np.array_equal(probes.aligned, probes.unaligned)
        chunks, scope, cameras = self._in_scope(scope)

        def search_chunk(chunk: _Chunk) -> Hits:
            return _search_chunk(chunk, probes, same, min_similarity, scope, cameras)

        return _best_of(list(self._pool.map(search_chunk, chunks)))

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        chunks, scope, cameras = self._in_scope(scope)
        rows, vectors = [np.zeros(0, ROW)], [np.zeros((0, self._dimension), np.float32)]
        for chunk in chunks:
            size = chunk.size
            mask = chunk.wanted(0, size, scope, cameras) & (chunk.appearances[:size] == appearance)
            found = np.flatnonzero(mask)
            rows.append(chunk.rows[found])
            vectors.append(chunk.vectors[found])
        return np.concatenate(rows), np.concatenate(vectors)

    def drop_before(self, time_ns: int) -> None:
        self._floor = max(self._floor, time_ns)
        # Searches that run keep the chunks they took. The last one is still written to.
        kept = [chunk for chunk in self._chunks[:-1] if chunk.newest >= time_ns]
        self._chunks = (*kept, *self._chunks[-1:])

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _in_scope(self, scope: Scope) -> tuple[list[_Chunk], Scope, NDArray[np.bool_] | None]:
        scope = Scope(max(scope.start_ns, self._floor), scope.end_ns, scope.cameras, scope.before)
        chunks = [chunk for chunk in self._chunks if chunk.newest >= scope.start_ns and chunk.oldest < scope.end_ns]
        if scope.cameras is None:
            return chunks, scope, None
        wanted = set(scope.cameras)
        # A camera may come in while this search runs; leave it room, as not wanted.
        names = dict(self._cameras)
        cameras = np.zeros(len(names) + 65_536, np.bool_)
        for name, index in names.items():
            cameras[index] = name in wanted
        return chunks, scope, cameras


def _search_chunk(
    chunk: _Chunk,
    probes: Probes,
    same: bool,
    min_similarity: float,
    scope: Scope,
    cameras: NDArray[np.bool_] | None,
) -> Hits:
    found: list[NDArray[np.intp]] = []
    similarities: list[NDArray[np.float32]] = []
    size = chunk.size
    for start in range(0, size, _BLOCK_ROWS):
        end = start + _BLOCK_ROWS
        mask = chunk.wanted(start, end, scope, cameras)
        mask[max(0, size - start) :] = False
        if not mask.any():
            continue
        # The whole block, also its rows that are not filled or not asked for: products of one shape give the same last
        # digits each time, which page tokens rely on.
        block = chunk.vectors[start:end]
        cosines = (block @ probes.aligned.T).max(axis=1)
        if not same:
            cosines = np.where(chunk.aligned[start:end], cosines, (block @ probes.unaligned.T).max(axis=1))
        # Rounding may carry a cosine of 1 over it.
        cosines = np.minimum(cosines, np.float32(1.0))
        at = np.flatnonzero(mask & (cosines >= np.float32(min_similarity)))
        found.append(at + start)
        similarities.append(cosines[at])
    if not found:
        return _NOTHING
    at = np.concatenate(found)
    return _best_per_appearance(chunk.appearances[at], np.concatenate(similarities), chunk.numbers[at], chunk.rows, at)


def _best_of(parts: list[Hits]) -> Hits:
    parts = [part for part in parts if len(part.numbers)]
    if len(parts) < 2:
        return parts[0] if parts else _NOTHING
    rows = np.concatenate([part.rows for part in parts])
    return _best_per_appearance(
        np.concatenate([part.appearances for part in parts]),
        np.concatenate([part.similarities for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        rows,
        np.arange(len(rows)),
    )


def _best_per_appearance(
    appearances: NDArray[np.int64],
    similarities: NDArray[np.float32],
    numbers: NDArray[np.int64],
    rows: Rows,
    at: NDArray[np.intp],
) -> Hits:
    """The hits with one, the most similar (of equals the first), left per appearance; `rows[at]` are theirs."""
    order = np.lexsort((numbers, -similarities, appearances))
    sorted_appearances = appearances[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = sorted_appearances[1:] != sorted_appearances[:-1]
    best = order[first]
    return Hits(appearances[best], similarities[best], numbers[best], rows[at[best]])


_NOTHING: Final = Hits(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, ROW))
