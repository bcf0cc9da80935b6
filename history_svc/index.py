"""Where faces are searched: the interface that every index has, and the exact one in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from history_svc.records import ROW, Rows, Vectors

CHUNK_ROWS: Final = 65_536
_BLOCK_ROWS: Final = 4096
_SLACK: Final = 1e-4
"""More than the error of a product in single precision."""
FOREVER: Final = 1 << 62


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

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self.aligned is self.unaligned or np.array_equal(self.aligned, self.unaligned)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which faces are searched: time in [start_ns, end_ns), one of `cameras` (None: any), number in [after, before)."""

    start_ns: int = -FOREVER
    end_ns: int = FOREVER
    cameras: Collection[str] | None = None
    before: int = FOREVER
    after: int = 0


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

    def remove(self, appearances: Collection[int]) -> int:
        """No face of these appearances that was added before is found by a search that begins later; in this process.

        What of them comes back after a restart is for those to see to who add it. Returns how many faces are removed
        already; others MAY only be left out of what is found. Blocks: call it in any thread. Raises MeshError when
        some may still be found.
        """

    def close(self) -> None:
        """Frees threads and memory."""


class Chunk:
    """Up to `capacity` faces in columns. Rows below `size` never change but to be blank, so readers need no lock."""

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
        self.oldest, self.newest = FOREVER, -FOREVER

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

    def blank(self, at: NDArray[np.intp]) -> None:
        """Overwrites rows: they are never in scope again. A search that has chosen them already finds nobody's face."""
        self.times[at] = FOREVER
        self.appearances[at] = -1
        self.vectors[at] = 0
        self.rows[at] = np.zeros((), ROW)

    def wanted(self, start: int, end: int, scope: Scope, cameras: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """(end - start,) which rows the scope asks for; `cameras` by camera index."""
        times = self.times[start:end]
        numbers = self.numbers[start:end]
        mask = (times >= scope.start_ns) & (times < scope.end_ns) & (numbers >= scope.after) & (numbers < scope.before)
        if cameras is not None:
            mask &= cameras[self.cameras[start:end]]
        return mask


class ExactIndex:
    """A HistoryIndex in memory: blocked matrix products over all faces in scope. For up to a few million faces."""

    def __init__(self, dimension: int, threads: int, chunk_rows: int = CHUNK_ROWS) -> None:
        self._dimension, self._threads, self._chunk_rows = dimension, threads, chunk_rows
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._chunks: tuple[Chunk, ...] = ()
        self._cameras: dict[str, int] = {}
        self._floor = -FOREVER
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
                self._chunks = (*self._chunks, Chunk(self._dimension, self._chunk_rows))
            chunk = self._chunks[-1]
            end = min(total, start + self._chunk_rows - chunk.size)
            chunk.append(faces, cameras, start, end)
            start = end
        self._next_number = max(self._next_number, int(faces.numbers[-1]) + 1)

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        return best_of(run(self._pool, self._threads, self.tasks(self.chunks, probes, min_similarity, scope)))

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        return self.faces_in(self.chunks, appearance, scope)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """What there is at this moment, for `tasks` and `faces_in`."""
        return self._chunks

    def tasks(
        self, chunks: tuple[Chunk, ...], probes: Probes, min_similarity: float, scope: Scope
    ) -> list[Callable[[], Hits]]:
        """The parts of a search of `chunks`."""
        wanted, scope, cameras = self._in_scope(chunks, scope)
        return [partial(_search_chunk, chunk, probes, min_similarity, scope, cameras) for chunk in wanted]

    def faces_in(self, chunks: tuple[Chunk, ...], appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        """`faces_of` of `chunks`."""
        chunks_in_scope, scope, cameras = self._in_scope(chunks, scope)
        rows, vectors = [np.zeros(0, ROW)], [np.zeros((0, self._dimension), np.float32)]
        for chunk in chunks_in_scope:
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

    def remove(self, appearances: Collection[int]) -> int:
        wanted = np.array(list(appearances), np.int64)
        removed = 0
        for chunk in self._chunks:
            at = np.flatnonzero(np.isin(chunk.appearances[: chunk.size], wanted))
            chunk.blank(at)
            removed += len(at)
        return removed

    def drop_below(self, number: int) -> None:
        """Frees faces with lower numbers, as far as they fill whole chunks. `add`'s thread only."""
        self._chunks = tuple(chunk for chunk in self._chunks if int(chunk.numbers[chunk.size - 1]) >= number)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _in_scope(self, chunks: tuple[Chunk, ...], scope: Scope) -> tuple[list[Chunk], Scope, NDArray[np.bool_] | None]:
        scope = replace(scope, start_ns=max(scope.start_ns, self._floor))
        wanted_chunks = [chunk for chunk in chunks if chunk.newest >= scope.start_ns and chunk.oldest < scope.end_ns]
        if scope.cameras is None:
            return wanted_chunks, scope, None
        wanted = set(scope.cameras)
        # A camera may come in while this search runs; leave it room, as not wanted.
        names = dict(self._cameras)
        cameras = np.zeros(len(names) + 65_536, np.bool_)
        for name, index in names.items():
            cameras[index] = name in wanted
        return wanted_chunks, scope, cameras


def run(pool: ThreadPoolExecutor, threads: int, tasks: Sequence[Callable[[], Hits]]) -> list[Hits]:
    """What the tasks give, in no order. Blocks.

    Each of the threads takes one task after the other: handing every task over by itself costs as much as a small one.
    """
    waiting = iter(tasks)  # one that threads share: `next` is atomic

    def work() -> list[Hits]:
        return [task() for task in waiting]

    works = [pool.submit(work) for _ in range(min(threads, len(tasks)))]
    return [hits for one in works for hits in one.result()]


def _search_chunk(
    chunk: Chunk, probes: Probes, min_similarity: float, scope: Scope, cameras: NDArray[np.bool_] | None
) -> Hits:
    found: list[NDArray[np.intp]] = []
    similarities: list[NDArray[np.float32]] = []
    size = chunk.size
    for start in range(0, size, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, size)
        at = np.flatnonzero(chunk.wanted(start, end, scope, cameras))
        if not len(at):
            continue
        # All or a few: products of whole blocks are fast, and so is leaving out most of the rows.
        block = slice(start, end) if 2 * len(at) > end - start else at + start
        places = np.arange(start, end) if isinstance(block, slice) else block
        near, near_similarities = cosines(chunk.vectors[block], chunk.aligned[block], places, probes, min_similarity)
        if isinstance(block, slice):
            kept = np.isin(near, at + start)
            near, near_similarities = near[kept], near_similarities[kept]
        found.append(near)
        similarities.append(near_similarities)
    if not found:
        return NOTHING
    at, values = np.concatenate(found), np.concatenate(similarities)
    best = best_per_appearance(chunk.appearances[at], values, chunk.numbers[at])
    chosen = at[best]
    return Hits(chunk.appearances[chosen], values[best], chunk.numbers[chosen], chunk.rows[chosen])


def cosines(
    vectors: Vectors, aligned: NDArray[np.bool_], places: NDArray[np.intp], probes: Probes, least: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Those of n faces with a cosine of at least `least` to the probes: their `places`, and the cosines.

    A face's cosine is the same to the last digit whatever faces it is computed with (page tokens rely on it): a fast
    product chooses, and a sum along each row alone decides.
    """
    estimates = (vectors @ probes.aligned.T).max(axis=1)
    if not probes.same:
        estimates = np.where(aligned, estimates, (vectors @ probes.unaligned.T).max(axis=1))
    near = np.flatnonzero(estimates >= least - _SLACK)
    chosen, chosen_aligned = vectors[near].astype(np.float64), aligned[near]
    exact = _row_cosines(chosen, probes.aligned)
    if not probes.same:
        exact = np.where(chosen_aligned, exact, _row_cosines(chosen, probes.unaligned))
    # Rounding may carry a cosine of 1 over it.
    values = np.minimum(exact, 1.0).astype(np.float32)
    kept = values >= np.float32(least)
    return places[near[kept]], values[kept]


def _row_cosines(vectors: NDArray[np.float64], templates: Vectors) -> NDArray[np.float64]:
    best: NDArray[np.float64] = np.full(len(vectors), -np.inf)
    for template in templates.astype(np.float64):
        np.maximum(best, (vectors * template).sum(axis=1), out=best)
    return best


def best_of(parts: list[Hits]) -> Hits:
    """The hits of all parts, one per appearance."""
    parts = [part for part in parts if len(part.numbers)]
    if len(parts) < 2:
        return parts[0] if parts else NOTHING
    appearances = np.concatenate([part.appearances for part in parts])
    similarities = np.concatenate([part.similarities for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    best = best_per_appearance(appearances, similarities, numbers)
    rows = np.concatenate([part.rows for part in parts])
    return Hits(appearances[best], similarities[best], numbers[best], rows[best])


def best_per_appearance(
    appearances: NDArray[np.int64], similarities: NDArray[np.float32], numbers: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Where the most similar (of equals the first) face of each appearance stands."""
    order = np.lexsort((numbers, -similarities, appearances))
    sorted_appearances = appearances[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = sorted_appearances[1:] != sorted_appearances[:-1]
    best: NDArray[np.intp] = order[first]
    return best


NOTHING: Final = Hits(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, ROW))
