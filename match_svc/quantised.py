"""Search by one-bit codes with an exact second look: for galleries too large to compare with everybody."""

from __future__ import annotations

import threading
import time
from functools import cache
from typing import Any, Final

import faiss
import numpy as np

from match_svc.bounded import fitted
from match_svc.index import ExactIndex, Floats, Hits, Index, Limits, Positions, joined

MARGIN: Final = 0.14
"""More than three standard errors of an estimate, which is 0.042 at 256 dimensions: of faces exactly at the limit one
in 2,000 is not looked at again, of those 0.05 above it one in 300,000."""
_FIRST: Final = 64
_FACTOR: Final = 4
_ROWS_A_CANDIDATE: Final = 64
"""A probe with more than one candidate in so many rows is compared with all of them: at 100,000 rows asking for 1,000
takes 1.4 ms, the matrix product 1.3."""
_LOOK_AGAIN: Final = 64
"""After so many searches without codes they are tried again: a face that is like thousands (an out-of-focus one) must
not decide about all faces to come. Where they are of no use that costs a search in so many half as much again."""
_TRAIN_ROWS: Final = 65_536
_ADD_ROWS: Final = 16_384
_SEED: Final = 20_261_121
_TUNE_PROBES: Final = (1, 2, 4, 8, 16)
_TUNE_LIMIT: Final = 0.45
_thread = threading.local()


class QuantisedIndex:
    """RaBitQ codes of one bit a dimension (Gao & Long, SIGMOD 2024) in FAISS's fast scan, 40 bytes beside each vector.

    Estimates name candidates and the vectors decide. A search asks for the best k and, while the k-th could still be a
    hit, for four times as many, so that no number of rows or persons is too many; beyond a share of all rows the probe
    is compared with everything.
    """

    kind = "quantised"

    def __init__(self, vectors: Floats) -> None:
        """`vectors` as for ExactIndex; some 150,000 rows a second."""
        self._exact_from = np.inf
        one_thread()
        self._vectors = vectors
        self._exact = ExactIndex(vectors)
        self._batches = fitted(vectors)
        self._most = len(vectors) // _ROWS_A_CANDIDATE
        self._codes = self._encoded()
        # Hints alone; that threads overwrite each other's does no harm.
        self._usual = 0.0  # candidates of a probe
        self._exact_up_to = -np.inf
        self._without_codes = 0  # searches since that was found

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, probes: Floats, limits: Limits) -> Hits:
        """See Index."""
        if self._codes is None or len(probes) >= self._exact_from or not len(probes):
            return self._batches.search(probes, limits)
        if limits.usual <= self._exact_up_to and self._without_codes < _LOOK_AGAIN:
            self._without_codes += 1
            return self._batches.search(probes, limits)
        one_thread()
        rows_of, candidates, rest = self._candidates(probes, limits.usual - MARGIN)
        if 2 * len(rest) > len(probes):
            self._exact_up_to, self._without_codes = limits.usual, 0
        elif limits.usual <= self._exact_up_to:
            self._exact_up_to = -np.inf
        usual = limits.values[candidates]
        kept = np.flatnonzero((usual >= limits.usual) & (usual < np.inf))
        found = [self._exact.look(probes, rows_of[kept], candidates[kept], limits)]
        if limits.lower.size:
            found.append(self._lower(probes, limits, rest))
        if rest.size:
            hits = self._batches.search(probes[rest], limits)
            found.append(Hits(rest[hits.probes], hits.rows, hits.similarities))
        return joined(found)

    def pairs(self, probes: Floats, rows: Positions) -> Floats:
        """See Index."""
        return self._exact.pairs(probes, rows)

    def tune(self) -> None:
        """Measure from how many probes on a product is faster, before it is searched; some 100 single searches.

        A product reads each vector once for a whole batch, codes are scanned once for each probe: on the faces of this
        gallery, whose spread decides how many candidates there are, either may win.
        """
        if self._codes is None:
            return
        limits = Limits.of(np.full(len(self), _TUNE_LIMIT, np.float32), _TUNE_LIMIT)
        probes = self._vectors[:: max(1, len(self) // _TUNE_PROBES[-1])]
        self.search(probes[: _TUNE_PROBES[-1]], limits)  # learns where to begin
        for count in _TUNE_PROBES:
            by_codes, by_product = (_seconds(index, probes[:count], limits) for index in (self, self._batches))
            if by_product < by_codes:
                self._exact_from = count
                return

    def _candidates(self, probes: Floats, least: float) -> tuple[Positions, Positions, Positions]:
        """(probe, row) of estimates from `least` on, and the probes that have too many of them."""
        rotated = probes @ _rotation(probes.shape[1])
        waiting = np.arange(len(probes))
        owners: list[Positions] = [waiting[:0]]
        rows: list[Positions] = [waiting[:0]]
        # Another pass costs as much as the first: begin where most would end.
        asked = _FIRST
        while asked < 1.5 * self._usual and asked * 2 <= self._most:
            asked *= 2
        while waiting.size and asked <= self._most:
            estimates, at = self._codes.search(rotated[waiting], asked)
            done = estimates[:, -1] < least
            probe, place = np.nonzero((estimates >= least) & done[:, None])
            owners.append(waiting[probe])
            rows.append(at[probe, place].astype(np.intp, copy=False))
            waiting = waiting[~done]
            asked *= _FACTOR
        candidates = np.concatenate(rows)
        seen = (len(candidates) + len(waiting) * self._most) / len(probes)
        self._usual += (seen - self._usual) / 8
        return np.concatenate(owners), candidates, waiting

    def _lower(self, probes: Floats, limits: Limits, rest: Positions) -> Hits:
        """The hits among rows with an unusually low limit, but those of the probes in `rest`."""
        similar = probes @ self._vectors[limits.lower].T
        similar[rest] = -np.inf
        probe, at = np.nonzero(similar >= limits.values[limits.lower])
        return Hits(probe, limits.lower[at], similar[probe, at])

    def _encoded(self) -> Any:
        """None when there is nothing to estimate by: few rows, or all alike."""
        count, dimension = self._vectors.shape
        if self._most < _FIRST:
            return None
        turn = _rotation(dimension)
        codes = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT)
        codes.train(self._vectors[:: max(1, count // _TRAIN_ROWS)] @ turn)
        for start in range(0, count, _ADD_ROWS):
            codes.add(self._vectors[start : start + _ADD_ROWS] @ turn)
        estimates, at = codes.search(np.ones((1, dimension), np.float32), _FIRST)
        return codes if at.min() >= 0 and np.isfinite(estimates).all() else None


def _seconds(index: Index, probes: Floats, limits: Limits) -> float:
    best = np.inf
    for _ in range(2):
        started = time.perf_counter()
        index.search(probes, limits)
        best = min(best, time.perf_counter() - started)
    return float(best)


def one_thread() -> None:
    """Let FAISS use this thread alone when called from it: with threads of its own each search is 2.5 to 4 times
    slower, and they take the cores of other searches."""
    if not getattr(_thread, "ready", False):
        faiss.omp_set_num_threads(1)
        _thread.ready = True


@cache
def _rotation(dimension: int) -> Floats:
    """(d, d), a random rotation: products between vectors stay as they were, and the bits become alike."""
    random = np.random.default_rng(_SEED)
    orthogonal: Floats = np.linalg.qr(random.standard_normal((dimension, dimension)))[0].astype(np.float32)
    return np.ascontiguousarray(orthogonal)
