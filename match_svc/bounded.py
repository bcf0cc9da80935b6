"""Exact search that computes a third of each product: an upper bound first, the rest where the bound is reached.

Embeddings of faces do not fill their space evenly: turned so that the directions with most energy come first, a part of
the dimensions holds most of every vector. For a probe q and a row x that are cut into a head and a tail,

    q.x = head(q).head(x) + tail(q).tail(x) <= head(q).head(x) + |tail(q)| |tail(x)|      (Cauchy-Schwarz)

and with the norm of the tail as one more dimension the right-hand side is one matrix product. Nothing is lost, whatever
the faces are like; how much is gained depends on them, so `fitted` looks at them first.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from match_svc.index import BLOCK_ROWS, GEMV_PROBES, NO_HITS, ExactIndex, Floats, Hits, Index, Limits, Positions, joined

WIDTHS: Final = (48, 64, 80, 96, 112, 128, 160)
"""Dimensions of a bound that are tried, that of the tail's norm included."""
LEAST_ROWS: Final = 2048
"""Below, comparing everything costs nothing that one would notice."""
_DIMENSIONS_A_LOOK: Final = 8000
"""One exact look costs as much as so many dimensions of a product (0.24 us against 0.03 ns each, AVX2)."""
_MOST_LOOKS: Final = 32
"""A block with more than one look in so many pairs is compared wholly."""
_WORTH: Final = 0.8
"""A bound that costs more than this share of everything is not worth its memory."""
_SAMPLE_ROWS: Final = 16_384
_PROBED_ROWS: Final = 4096
_PROBES: Final = 64
_USUAL_LIMIT: Final = 0.45
_SLACK: Final = 1e-5
"""Above what float32 loses in a product of normalised vectors."""


class BoundedIndex:
    """The vectors, and turned, shortened copies of them for the bounds."""

    kind = "exact"

    def __init__(self, vectors: Floats, turn: Floats) -> None:
        """`vectors` as for ExactIndex, `turn` (d, w - 1) with orthonormal columns. Makes 1.2 million rows a second."""
        self._vectors = vectors
        self._exact = ExactIndex(vectors)
        self.turn = turn
        self._bounds = np.empty((len(vectors), turn.shape[1] + 1), np.float32)
        for start in range(0, len(vectors), BLOCK_ROWS):
            self._bounds[start : start + BLOCK_ROWS] = _shortened(vectors[start : start + BLOCK_ROWS], turn)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, probes: Floats, limits: Limits) -> Hits:
        """See Index."""
        if not len(probes):
            return NO_HITS
        short = _shortened(probes, self.turn)
        few = len(probes) <= GEMV_PROBES
        space = np.empty((len(probes), min(BLOCK_ROWS, len(self._vectors))), np.float32)
        found: list[Hits] = []
        for start in range(0, len(self._vectors), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(self._vectors))
            block = self._bounds[start:stop]
            bounds = space[:, : stop - start]
            if few:
                for probe, into in zip(short, bounds, strict=True):
                    np.dot(block, probe, out=into)
            else:
                np.matmul(short, block.T, out=bounds)
            reached = np.flatnonzero(bounds >= limits.values[start:stop] - np.float32(_SLACK))
            if not reached.size:
                continue
            if reached.size * _MOST_LOOKS > bounds.size:
                found.append(self._exact.block(probes, limits, start, stop))
            else:
                probe, row = np.divmod(reached, stop - start)
                found.append(self._exact.look(probes, probe, row + start, limits))
        return joined(found)

    def pairs(self, probes: Floats, rows: Positions) -> Floats:
        """See Index."""
        return self._exact.pairs(probes, rows)


def fitted(vectors: Floats) -> Index:
    """The index that is expected to search these vectors fastest in batches: with bounds if they are worth it."""
    width, turn = _best(vectors) if len(vectors) >= LEAST_ROWS else (0, None)
    return ExactIndex(vectors) if turn is None else BoundedIndex(vectors, np.ascontiguousarray(turn[:, : width - 1]))


def _best(vectors: Floats) -> tuple[int, Floats | None]:
    """The cheapest width for strangers, whom these people stand for, and all directions by falling energy."""
    count, dimension = vectors.shape
    sample = vectors[:: -(-count // _SAMPLE_ROWS)]
    _, columns = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    turn: Floats = columns[:, ::-1].astype(np.float32)
    rows, probes = (vectors[:: -(-count // most)] for most in (_PROBED_ROWS, _PROBES))
    strangers = np.count_nonzero(probes @ rows.T < _USUAL_LIMIT)
    best, least = 0, _WORTH * dimension
    for width in WIDTHS:
        if width > dimension or not strangers:
            break
        head = turn[:, : width - 1]
        similar, bounds = probes @ rows.T, _shortened(probes, head) @ _shortened(rows, head).T
        looks = np.count_nonzero((bounds >= _USUAL_LIMIT) & (similar < _USUAL_LIMIT))
        cost = width + _DIMENSIONS_A_LOOK * looks / strangers
        if cost < least:
            best, least = width, cost
    return best, turn if best else None


def _shortened(vectors: Floats, turn: Floats) -> Floats:
    """(n, w): the head of each vector and the norm of its tail, never less than it is."""
    short = np.empty((len(vectors), turn.shape[1] + 1), np.float32)
    heads = np.matmul(vectors, turn, out=short[:, :-1])
    rest = np.einsum("ij,ij->i", vectors, vectors) - np.einsum("ij,ij->i", heads, heads)
    # What is left of two numbers near 1 may be off by their last digits.
    short[:, -1] = np.sqrt(np.maximum(rest, 0.0) + np.float32(1e-6))
    return short
