"""All faces in memory once: the truth, and the two baselines that scan them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.history.data import DIMENSION, Part
from history_svc.records import Vectors

_BLOCK_ROWS = 4096
_TRUTH_ROWS = 65_536
_MOST = 2000
"""Faces that IndexFlatIP is asked for: it has no end of its own."""


class Exact:
    """`rows` faces in faiss.IndexFlatIP, in single precision, before history rounds them."""

    def __init__(self, rows: int) -> None:
        self._flat = faiss.IndexFlatIP(DIMENSION)
        # Its memory at once and filled in place: ten gigabytes that `add` would copy as they grow.
        self._flat.codes.resize(rows * DIMENSION * 4)
        self._flat.ntotal = rows
        self._vectors: Vectors = faiss.rev_swig_ptr(self._flat.get_xb(), rows * DIMENSION).reshape(rows, DIMENSION)
        self._owners = np.zeros(rows, np.int64)

    def put(self, part: Part) -> None:
        """Takes a part. Threads may do so side by side."""
        end = part.start + len(part.vectors)
        self._vectors[part.start : end], self._owners[part.start : end] = part.vectors, part.owners

    def truth(self, queries: Vectors, threshold: float) -> list[set[int]]:
        """For each query the numbers of the appearances with a face of at least this cosine."""
        found: list[set[int]] = [set() for _ in queries]
        for start in range(0, len(self._vectors), _TRUTH_ROWS):
            near = self._vectors[start : start + _TRUTH_ROWS] @ queries.T >= threshold
            for row, query in zip(*np.nonzero(near), strict=True):
                found[query].add(int(self._owners[start + row]))
        return found

    def as_shipped(self, queries: Vectors) -> float:
        """Median ms of a search in IndexFlatIP with faiss's defaults."""
        return _median(queries, lambda query: self._flat.search(query[None], _MOST))

    def best_scan(self, queries: Vectors, threshold: float) -> float:
        """Median ms of the fastest way to all faces from the threshold on: faiss's own, which keeps no best ones, or a
        blocked product over two halves on two threads, each without threads of its own."""
        half = len(self._vectors) // 2
        halves = self._vectors[:half], self._vectors[half:]
        with ThreadPoolExecutor(len(halves)) as pool:
            return min(
                _median(queries, lambda query: self._flat.range_search(query[None], threshold)),
                _median(queries, lambda query: list(pool.map(partial(_scan, query, threshold), halves))),
            )


def _scan(query: Vectors, threshold: float, part: Vectors) -> NDArray[np.intp]:
    starts = range(0, len(part), _BLOCK_ROWS)
    return np.concatenate([np.flatnonzero(part[at : at + _BLOCK_ROWS] @ query >= threshold) + at for at in starts])


def _median(queries: Vectors, search: Callable[[Vectors], object]) -> float:
    taken = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
