"""The mean of a person's references, which is one more row of theirs: their template.

Each reference counts by its quality, as a photo that is blurred or turned away says little. The mean of several photos
is nearer to most faces of a person than any one of them; the photos stay, because a face may be just like one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from poi.v1 import poi_pb2

from match_svc.index import Floats

_LEAST_WEIGHT = 0.05
"""Of a reference that was measured to be useless: what there is of it still counts where all are like that."""
_LEAST_NORM = 1e-3
"""References that cancel each other out have no mean."""


def weights(references: Sequence[poi_pb2.Reference]) -> list[float]:
    """What each reference of one person counts for, above 0: its quality score.

    One that came as an embedding was never measured: it counts as the person's measured ones do on average, so that it
    neither drowns nor vanishes among them; all count the same where none was measured.
    """
    if len(references) == 1:
        return [1.0]  # there is no mean to weigh it in
    measured = {at: one.quality.score for at, one in enumerate(references) if one.HasField("quality")}
    known = {at: max(score, _LEAST_WEIGHT) if 0.0 <= score <= 1.0 else _LEAST_WEIGHT for at, score in measured.items()}
    usual = sum(known.values()) / len(known) if known else 1.0
    return [known.get(at, usual) for at in range(len(references))]


def row_count(references: int) -> int:
    """Rows of a person with so many references: one for the mean where there are two or more, behind the others."""
    return references + 1 if references > 1 else references


class Layout:
    """Where the rows of some persons go."""

    def __init__(self, counts: NDArray[np.int64], each: Sequence[float]) -> None:
        """`counts` (m,): references of each person; `each`: weights of all of them, in order."""
        self._counts = counts
        self._several = counts > 1
        self._weights = np.array(each, np.float32)
        self.rows = counts + self._several
        """(m,) rows of each person."""
        self.means = int(np.count_nonzero(self._several))
        """How many of all rows are means."""

    def filled(self, vectors: Floats, bad: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
        """(n + means, d) and which of these are of no use, from the references' (n, d), norm 1 or bad and zero."""
        if not self.means:
            return vectors, bad
        ends = np.cumsum(self.rows)
        mean_rows = ends[self._several] - 1
        is_mean = np.zeros(int(ends[-1]), np.bool_)
        is_mean[mean_rows] = True
        of_several = np.repeat(self._several, self._counts)
        counts = self._counts[self._several]
        sums = np.add.reduceat(
            vectors[of_several] * self._weights[of_several, None], np.cumsum(counts) - counts, axis=0
        )
        norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        useless = norms < _LEAST_NORM
        sums[useless], norms[useless] = 0.0, 1.0
        rows = np.empty((len(is_mean), vectors.shape[1]), np.float32)
        rows[~is_mean], rows[is_mean] = vectors, sums / norms[:, None]
        unusable = np.empty(len(is_mean), np.bool_)
        unusable[~is_mean], unusable[is_mean] = bad, useless
        return rows, unusable
