"""A HistoryIndex of sealed segments on disk, and of what is not sealed yet in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from history_svc.index import CHUNK_ROWS, FOREVER, ExactIndex, Faces, Hits, Probes, Scope, best_of, run
from history_svc.records import Rows, Vectors
from history_svc.sealed import faces as sealed_faces
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.reading import Unreadable, reading
from history_svc.sealed.shelf import Shelf

_AT_ONCE: Final = 8
"""Segments that are scanned in one call: fewer, and searches wait for appends more often."""


@dataclass(frozen=True, slots=True)
class _View:
    """The segments, and the number below which faces in memory are in one of them."""

    segments: tuple[SealedFaces, ...] = ()
    sealed_below: int = 0
    floor_ns: int = -FOREVER
    removed: frozenset[int] = frozenset()
    """Appearances that segments may have, and that are found no more."""


class SegmentedIndex:
    """See the module. `threads` search for all callers together."""

    def __init__(self, dimension: int, threads: int, chunk_rows: int = CHUNK_ROWS) -> None:
        self._active = ExactIndex(dimension, threads, chunk_rows)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="segments")
        self._threads = threads
        self._view = _View()
        self._changing = threading.Lock()
        self.verify: Callable[[SealedFaces], bool] = lambda segment: True
        """Whether a segment is sound; when it is not it is put aside. Asked about those that cannot be read."""

    def __len__(self) -> int:
        return len(self._active) + sum(map(len, self._view.segments))

    @property
    def next_number(self) -> int:
        return max(self._active.next_number, self._view.sealed_below)

    @property
    def segments(self) -> tuple[SealedFaces, ...]:
        """The sealed segments, oldest first."""
        return self._view.segments

    @property
    def shelf(self) -> Shelf:
        """What they know, as of now."""
        return Shelf(self._view.segments, self._shelf_without)

    def add(self, faces: Faces) -> None:
        """As the Protocol says. Vectors are `records.rounded` already, so that sealing changes no similarity."""
        self._active.add(faces)

    def take(self, segment: SealedFaces) -> None:
        """Searches a segment from now on, instead of the faces in memory that are in it. `add`'s thread only."""
        with self._changing:
            view = self._view
            below = max(view.sealed_below, segment.manifest.next_face)
            self._view = replace(view, segments=(*view.segments, segment), sealed_below=below)
        self._active.drop_below(below)

    def reserve(self, number: int) -> None:
        """Faces that are added have numbers from this one on. Before the first `add`."""
        with self._changing:
            self._view = replace(self._view, sealed_below=max(self._view.sealed_below, number))

    def exchange(self, old: Sequence[SealedFaces], new: SealedFaces) -> None:
        """Searches a segment instead of others that stand for the same log files."""
        with self._changing:
            segments = [*(one for one in self._view.segments if one not in old), new]
            segments.sort(key=lambda one: one.manifest.first_log)
            self._view = replace(self._view, segments=tuple(segments))

    def forget(self, segments: Sequence[SealedFaces]) -> None:
        """No longer searches these."""
        with self._changing:
            kept = tuple(one for one in self._view.segments if one not in segments)
            self._view = replace(self._view, segments=kept)

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        while True:
            try:
                return self._search(probes, min_similarity, scope)
            except Unreadable as failed:
                self._judge(failed)

    def _search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        # In this order: faces that are sealed in between are then in both, and left out of the chunks.
        chunks = self._active.chunks
        removed = self._view.removed
        segments, scope, active_scope = self._scopes(scope)
        # The memory's parts first: they are the longest.
        tasks = self._active.tasks(chunks, probes, min_similarity, active_scope)
        at_once = max(1, min(_AT_ONCE, -(-len(segments) // self._threads)))
        tasks += [
            partial(_search, segments[start : start + at_once], probes, min_similarity, scope)
            for start in range(0, len(segments), at_once)
        ]
        return _without(best_of(run(self._pool, self._threads, tasks)), removed)

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        while True:
            try:
                return self._faces_of(appearance, scope)
            except Unreadable as failed:
                self._judge(failed)

    def _faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        chunks = self._active.chunks
        removed = self._view.removed
        segments, scope, active_scope = self._scopes(scope)
        parts = []
        for segment in segments if appearance not in removed else ():
            with reading(segment):
                parts.append(segment.faces_of(appearance, scope))
        parts.append(self._active.faces_in(chunks, appearance, active_scope))
        rows, vectors = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(vectors)

    def remove(self, appearances: Collection[int]) -> int:
        with self._changing:
            self._view = replace(self._view, removed=self._view.removed | frozenset(appearances))
        return self._active.remove(appearances)

    def removed_for_good(self, appearances: Collection[int]) -> None:
        """No segment has faces of these any more."""
        with self._changing:
            self._view = replace(self._view, removed=self._view.removed - frozenset(appearances))

    def drop_before(self, time_ns: int) -> None:
        with self._changing:
            self._view = replace(self._view, floor_ns=max(self._view.floor_ns, time_ns))
        self._active.drop_before(time_ns)

    def close(self) -> None:
        self._active.close()
        self._pool.shutdown(cancel_futures=True)

    def _judge(self, failed: Unreadable) -> None:
        """Returns when the same may be tried again: those of the segments that are damaged are not searched any more.

        Raises what went wrong when nothing is.
        """
        known = [one for one in failed.segments if one in self._view.segments]
        damaged = [one for one in known if not self.verify(one)]
        self.forget(damaged)
        if not damaged and len(known) == len(failed.segments):
            raise failed.cause

    def _shelf_without(self, failed: Unreadable) -> Shelf:
        self._judge(failed)
        return self.shelf

    def _scopes(self, scope: Scope) -> tuple[list[SealedFaces], Scope, Scope]:
        """The segments to search and how, and how to search what is in memory."""
        view = self._view
        scope = replace(scope, start_ns=max(scope.start_ns, view.floor_ns))
        segments = [one for one in view.segments if one.overlaps(scope)]
        return segments, scope, replace(scope, after=max(scope.after, view.sealed_below))


def _without(hits: Hits, removed: frozenset[int]) -> Hits:
    if not removed:
        return hits
    kept = ~np.isin(hits.appearances, list(removed))
    return Hits(hits.appearances[kept], hits.similarities[kept], hits.numbers[kept], hits.rows[kept])


def _search(segments: Sequence[SealedFaces], probes: Probes, min_similarity: float, scope: Scope) -> Hits:
    with reading(*segments, in_memory=True):
        return best_of(sealed_faces.search(segments, probes, min_similarity, scope))
