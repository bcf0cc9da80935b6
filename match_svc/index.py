"""Search among the reference vectors of one store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Positions = NDArray[np.intp]

BLOCK_ROWS = 4096
"""Rows compared at once: 64 probes against them make 1 MB of similarities, which stays in the cache."""
GEMV_PROBES = 4
"""Up to so many probes are compared one by one: a matrix product repacks the gallery, which few probes do not repay
(10,000 rows, 2 probes: 0.8 ms against 2.1)."""
_LOOK_ROWS = 8192
"""Pairs looked at at once: 8 MB of vectors."""
MOST_LOWER = 32
"""At most one row in so many counts as unusually low: each is compared with each probe."""


class Hits(NamedTuple):
    """Pairs of a probe and a row whose similarity reaches the row's limit: three arrays of one length, unordered."""

    probes: Positions
    rows: Positions
    similarities: Floats


NO_HITS = Hits(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """The least similarity of each row, and what an index that estimates must know of them."""

    values: Floats
    """(n,) infinite for a row that is never hit."""
    usual: float
    """At most that of every row but the `lower` ones."""
    lower: Positions
    """Rows, ascending, whose limit is below the usual one: few, or none."""

    @classmethod
    def of(cls, values: Floats, usual: float) -> Limits:
        """`usual` is what most rows have, where that is so; not copied."""
        lower = np.flatnonzero(values < usual)
        if len(lower) * MOST_LOWER > len(values):
            usual, lower = float(values.min()), lower[:0]
        return cls(values, usual, lower)

    def part(self, start: int, stop: int) -> Limits:
        """Those of the rows from `start` to `stop`, numbered from 0."""
        first, last = np.searchsorted(self.lower, (start, stop))
        return Limits(self.values[start:stop], self.usual, self.lower[first:last] - start)


class Index(Protocol):
    """Reference vectors that can be searched. Immutable, and safe to use from several threads.

    An implementation MUST

    - find the hits that a comparison of everything with everything finds; one that looks at estimates first MUST take
      a second, exact look, with a margin that loses none but a few in a thousand of those at the very limit;
    - answer with exact similarities, to float32 rounding;
    - find all hits of a probe, however many rows or persons it reaches;
    - obey the limits that come with each search: they change (a deleted row gets an infinite one), it does not;
    - use the thread that called it and no other: callers share the cores out.
    """

    @property
    def kind(self) -> str:
        """What operators see of it: `exact` or `quantised`."""
        ...

    def __len__(self) -> int: ...

    def search(self, probes: Floats, limits: Limits) -> Hits:
        """The hits of `probes` (b, d), L2-normalised. A row whose limit is infinite is never hit."""
        ...

    def pairs(self, probes: Floats, rows: Positions) -> Floats:
        """Cosine similarity (k,) of `probes[i]` to row `rows[i]`, for `probes` (k, d)."""
        ...


class ExactIndex:
    """Blocked matrix product with a threshold.

    For the size of a watchlist it beats a library's flat index (10,000 rows, 64 probes: 0.11 ms a probe against 0.14),
    and has no limit on the number of hits. Costs nothing to make.
    """

    kind = "exact"

    def __init__(self, vectors: Floats) -> None:
        """`vectors` is (n, d) float32, C-contiguous, L2-normalised; not copied."""
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, probes: Floats, limits: Limits) -> Hits:
        """See Index."""
        if not len(probes):
            return NO_HITS
        starts = range(0, len(self._vectors), BLOCK_ROWS)
        return joined([self.block(probes, limits, start, start + BLOCK_ROWS) for start in starts])

    def block(self, probes: Floats, limits: Limits, start: int, stop: int) -> Hits:
        """The hits among the rows from `start` to `stop`."""
        block = self._vectors[start:stop]
        few = len(probes) <= GEMV_PROBES
        similar = np.stack([block @ probe for probe in probes]) if few else probes @ block.T
        reached = np.flatnonzero(similar >= limits.values[start : start + len(block)])
        if not reached.size:
            return NO_HITS
        probe, row = np.divmod(reached, len(block))
        return Hits(probe, row + start, similar.ravel()[reached])

    def look(self, probes: Floats, owners: Positions, rows: Positions, limits: Limits) -> Hits:
        """The hits among pairs of `probes[owners[i]]` and row `rows[i]`."""
        found = []
        for start in range(0, len(rows), _LOOK_ROWS):
            probe, row = owners[start : start + _LOOK_ROWS], rows[start : start + _LOOK_ROWS]
            similar = self.pairs(probes[probe], row)
            reached = np.flatnonzero(similar >= limits.values[row])
            found.append(Hits(probe[reached], row[reached], similar[reached]))
        return joined(found)

    def pairs(self, probes: Floats, rows: Positions) -> Floats:
        """See Index."""
        similar: Floats = np.einsum("ij,ij->i", probes, self._vectors[rows])
        return similar


class Layered:
    """Two indexes as one: a large one that is costly to make, and behind its rows those that came since."""

    def __init__(self, base: Index, tail: Index) -> None:
        self._base = base
        self._tail = tail
        self.kind = base.kind

    def __len__(self) -> int:
        return len(self._base) + len(self._tail)

    def search(self, probes: Floats, limits: Limits) -> Hits:
        """See Index."""
        first = len(self._base)
        found = [self._base.search(probes, limits.part(0, first))]
        if len(self._tail):
            hits = self._tail.search(probes, limits.part(first, len(self)))
            found.append(Hits(hits.probes, hits.rows + first, hits.similarities))
        return joined(found)

    def pairs(self, probes: Floats, rows: Positions) -> Floats:
        """See Index."""
        similar = np.empty(len(rows), np.float32)
        behind = rows >= len(self._base)
        for index, chosen, first in ((self._base, ~behind, 0), (self._tail, behind, len(self._base))):
            at = np.flatnonzero(chosen)
            if at.size:
                similar[at] = index.pairs(probes[at], rows[at] - first)
        return similar


def joined(found: list[Hits]) -> Hits:
    """All of these hits."""
    some = [hits for hits in found if hits.rows.size]
    if len(some) == 1:
        return some[0]
    return Hits(*(np.concatenate(parts) for parts in zip(*some, strict=True))) if some else NO_HITS
