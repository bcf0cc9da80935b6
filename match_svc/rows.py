"""Rows of vectors for both kinds of probes, that only ever grow at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from match_svc.index import Floats


class Column:
    """An array that grows behind what readers look at: what was handed out never changes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, first: int = 256) -> None:
        """`shape` of one item."""
        self._items: NDArray[Any] = np.empty((first, *shape), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def items(self) -> NDArray[Any]:
        """What there is: a view."""
        return self._items[: self._count]

    def extend(self, more: NDArray[Any]) -> NDArray[Any]:
        """Put more behind; a view of these."""
        start, stop = self._count, self._count + len(more)
        if stop > len(self._items):
            grown = np.empty((max(stop, 2 * len(self._items)), *self._items.shape[1:]), self._items.dtype)
            grown[:start] = self._items[:start]
            self._items = grown
        self._items[start:stop] = more
        self._count = stop
        return self._items[start:stop]

    def own(self) -> NDArray[Any]:
        """What there is, to be changed in place: a copy for us, as readers look at the old one."""
        self._items = self._items.copy()
        return self.items


class Vectors:
    """Two vectors a row, kept once while both are the same in all rows."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._aligned = Column((dimension,), np.float32)
        self._others: Column | None = None

    def __len__(self) -> int:
        return len(self._aligned)

    @property
    def aligned(self) -> Floats:
        """(n, d), a view."""
        return self._aligned.items

    @property
    def others(self) -> Floats:
        """(n, d), a view; the same memory as `aligned` where they are the same."""
        return self._aligned.items if self._others is None else self._others.items

    @property
    def same(self) -> bool:
        """Whether all probes meet the same vectors."""
        return self._others is None

    def extend(self, aligned: Floats, others: Floats | None) -> None:
        """Put rows behind; `others` is None where they are the same."""
        if others is not None and self._others is None:
            self._others = Column((self._dimension,), np.float32)
            self._others.extend(self.aligned)
        self._aligned.extend(aligned)
        if self._others is not None:
            self._others.extend(aligned if others is None else others)


def read(vectors: Sequence[bytes], dimension: int) -> tuple[Floats, NDArray[np.bool_]]:
    """(n, d) of norm 1, and which have no direction (they are zero); nothing such passes the checks of enrolment."""
    rows: Floats = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), dimension).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    bad = ~(np.isfinite(norms) & (norms > 0))
    if bad.any():
        rows[bad], norms[bad] = 0.0, 1.0
    rows /= norms[:, None]
    return rows, bad
