"""The baselines: exact scans in this process, without a server around them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np

from bench.match.data import A_BATCH, Vectors

_MOST = 10
_BLOCK_ROWS = 4096
_BLAS_FROM = 4096


@dataclass(frozen=True)
class Baseline:
    """Faces a second, in batches of A_BATCH."""

    shipped: float
    """faiss.IndexFlatIP with its defaults."""
    best: float
    """The fastest exact scan: IndexFlatIP tuned, or a blocked product, on two threads without threads of their own."""


def measure(gallery: Vectors, probes: Vectors, threshold: float, seconds: float) -> Baseline:
    """`probes` are several batches."""
    flat = faiss.IndexFlatIP(gallery.shape[1])
    flat.add(gallery)
    parts = [probes[at : at + A_BATCH] for at in range(0, len(probes), A_BATCH)]
    shipped = _rate(lambda part: flat.search(part, _MOST), parts, seconds)
    with ThreadPoolExecutor(2, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        halves = np.array_split(gallery, 2)
        best = _rate(lambda part: list(pool.map(partial(_scan, part, threshold), halves)), parts, seconds)
        with _tuned():
            pairs = [parts[at : at + 2] for at in range(0, len(parts) - 1, 2)]
            both = _rate(lambda pair: list(pool.map(partial(flat.search, k=_MOST), pair)), pairs, seconds)
    return Baseline(shipped, max(best, both * 2))


def reached(gallery: Vectors, probes: Vectors, threshold: float) -> set[tuple[int, int]]:
    """(probe, row) pairs of at least this cosine."""
    found: set[tuple[int, int]] = set()
    for start in range(0, len(gallery), _BLOCK_ROWS):
        probe, row = np.nonzero(probes @ gallery[start : start + _BLOCK_ROWS].T >= threshold)
        found.update(zip(probe.tolist(), (row + start).tolist(), strict=True))
    return found


@contextmanager
def _tuned() -> Iterator[None]:
    """FAISS with BLAS for batches, which it does not use by itself below some 500 probes."""
    values = faiss.cvar.distance_compute_blas_threshold, faiss.cvar.distance_compute_blas_database_bs
    faiss.cvar.distance_compute_blas_threshold = faiss.cvar.distance_compute_blas_database_bs = _BLAS_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold, faiss.cvar.distance_compute_blas_database_bs = values


def _scan(probes: Vectors, threshold: float, part: Vectors) -> int:
    starts = range(0, len(part), _BLOCK_ROWS)
    return sum(np.flatnonzero(probes @ part[at : at + _BLOCK_ROWS].T >= threshold).size for at in starts)


def _rate(search: Callable[[Any], object], parts: list[Any], seconds: float) -> float:
    """Batches a second times A_BATCH; at least one batch."""
    search(parts[0])
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - started < seconds:
        search(parts[count % len(parts)])
        count += 1
    return count * A_BATCH / (time.perf_counter() - started)
