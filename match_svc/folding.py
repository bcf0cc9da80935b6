"""Folding: the rows that came since and those left behind become part of a new base, off the hot path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from match_svc.bounded import fitted
from match_svc.index import ExactIndex, Floats, Index
from match_svc.quantised import QuantisedIndex
from match_svc.rows import Vectors

_BLOCK_ROWS = 16_384
GONE = -1
"""The new place of a row that was left behind."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The rows of the last folding, and what searches them. `others` are the very `aligned` where they are the same."""

    aligned_vectors: Floats
    other_vectors: Floats
    aligned: Index
    others: Index

    def __len__(self) -> int:
        return len(self.aligned_vectors)

    @property
    def same(self) -> bool:
        """Whether all probes meet the same vectors."""
        return self.aligned is self.others

    @classmethod
    def empty(cls, dimension: int) -> Base:
        """The base before any folding."""
        nothing = np.empty((0, dimension), np.float32)
        index = ExactIndex(nothing)
        return cls(nothing, nothing, index, index)


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What a fold made."""

    base: Base
    moved: NDArray[np.int64]
    """(n,) where each row of before is now."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A folding to be made. `run` it in a thread of its own: it takes 7 s a million rows, and changes nothing."""

    base: Base
    tail: Vectors
    tail_rows: int
    """Rows of the tail that are folded: it may have more by now."""
    alive: NDArray[np.bool_]
    """(n,) whether each row is somebody's."""
    quantised: bool

    def run(self) -> Folded:
        """Blocks."""
        base_alive, tail_alive = np.split(self.alive, [len(self.base)])
        count = int(np.count_nonzero(self.alive))
        same = self.base.same and self.tail.same
        aligned = _kept(count, (self.base.aligned_vectors, base_alive), (self.tail.aligned, tail_alive))
        index = self._index(aligned)
        if same:
            base = Base(aligned, aligned, index, index)
        else:
            others = _kept(count, (self.base.other_vectors, base_alive), (self.tail.others, tail_alive))
            base = Base(aligned, others, index, self._index(others))
        return Folded(base, np.where(self.alive, np.cumsum(self.alive) - 1, GONE))

    def _index(self, vectors: Floats) -> Index:
        if not self.quantised:
            return fitted(vectors)
        index = QuantisedIndex(vectors)
        index.tune()
        return index


def _kept(count: int, *parts: tuple[Floats, NDArray[np.bool_]]) -> Floats:
    """The rows of all parts that their masks keep."""
    kept: Floats = np.empty((count, parts[0][0].shape[1]), np.float32)
    at = 0
    for block in _blocks(*parts):
        kept[at : at + len(block)] = block
        at += len(block)
    return kept


def _blocks(*parts: tuple[Floats, NDArray[np.bool_]]) -> Iterator[Floats]:
    for vectors, mask in parts:
        for start in range(0, len(mask), _BLOCK_ROWS):
            block = slice(start, min(start + _BLOCK_ROWS, len(mask)))
            yield vectors[block][mask[block]]
