"""From how many rows on an index of codes is faster than comparing with everything, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import structlog

from match_svc.index import ExactIndex, Floats, Index, Limits
from match_svc.quantised import QuantisedIndex

_log = structlog.get_logger(__name__)

LEAST, MOST = 8192, 65_536
"""Whatever a measurement says, as one on a busy machine may say anything: below, codes gain nothing worth their memory;
at 100,000 rows one probe takes a tenth of the time with them."""
_ROWS = (4096, 8192)
_PROBES = 1
"""An index that has codes finds out for itself whether they are good for batches, too."""
_TIMES = 8
_THRESHOLD = 0.45


@cache
def measure(dimension: int) -> int:
    """Rows, between LEAST and MOST. Takes some 0.15 s of one core the first time; blocks.

    Both costs grow with the rows, that of codes from a higher start: two sizes give both lines, and where they cross.
    """
    started = time.perf_counter()
    random = np.random.default_rng(1)
    vectors, probes = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (random.standard_normal((count, dimension), np.float32) for count in (_ROWS[-1], _PROBES))
    )
    exact = [_seconds(ExactIndex(vectors[:rows]), probes) for rows in _ROWS]
    codes = [_seconds(QuantisedIndex(vectors[:rows]), probes) for rows in _ROWS]
    found = crossing(_ROWS, exact, codes)
    _log.info(
        "index_crossover",
        rows=found,
        exact_us=round(exact[-1] / _PROBES * 1e6, 1),
        quantised_us=round(codes[-1] / _PROBES * 1e6, 1),
        measured_rows=_ROWS[-1],
        seconds=round(time.perf_counter() - started, 3),
    )
    return found


def crossing(rows: Sequence[int], exact: Sequence[float], codes: Sequence[float]) -> int:
    """Where the line through two costs of codes comes below the one of exact search; all in one unit."""
    span = rows[1] - rows[0]
    exact_slope = exact[1] / rows[1]
    slope = max(0.0, (codes[1] - codes[0]) / span)
    start = max(0.0, codes[1] - slope * rows[1])
    if exact_slope <= slope:
        return MOST
    return int(min(MOST, max(LEAST, start / (exact_slope - slope))))


def _seconds(index: Index, probes: Floats) -> float:
    limits = Limits.of(np.full(len(index), _THRESHOLD, np.float32), _THRESHOLD)
    index.search(probes, limits)  # the first one warms up
    best = np.inf
    for _ in range(_TIMES):
        started = time.perf_counter()
        index.search(probes, limits)
        best = min(best, time.perf_counter() - started)
    return float(best)
