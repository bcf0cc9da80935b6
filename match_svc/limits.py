"""The least similarity of each row of a gallery, as a builder changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from match_svc.index import MOST_LOWER, Floats, Limits
from match_svc.rows import Column


class RowLimits:
    """For aligned probes and for others; kept once while they are the same. What was handed out never changes."""

    def __init__(self) -> None:
        self._aligned = Column((), np.float32)
        self._others: Column | None = None

    def extend(self, least: Floats) -> None:
        """Put rows behind: (n, 2), for aligned probes and for others."""
        if self._others is None and (least[:, 0] != least[:, 1]).any():
            self._others = Column((), np.float32)
            self._others.extend(self._aligned.items)
        self._aligned.extend(least[:, 0])
        if self._others is not None:
            self._others.extend(least[:, 1])

    def never(self, rows: Iterable[slice]) -> None:
        """These rows are never hit any more."""
        rows = list(rows)
        for column in self._columns():
            values = column.own()
            for part in rows:
                values[part] = np.inf

    def replace(self, least: Floats) -> None:
        """Other limits for all rows: (n, 2)."""
        self._aligned, self._others = Column((), np.float32), None
        self.extend(least)

    def move(self, moved: Callable[[Column], Column]) -> None:
        """Reorder the rows."""
        if self._others is not None:
            self._others = moved(self._others)
        self._aligned = moved(self._aligned)

    def publish(self, usual: tuple[float, float]) -> tuple[Limits, Limits]:
        """For aligned probes and for others, the very same where they are; `usual` is what most rows have."""
        aligned = Limits.of(self._aligned.items, usual[0])
        return aligned, aligned if self._others is None else Limits.of(self._others.items, usual[1])

    def _columns(self) -> list[Column]:
        return [self._aligned] if self._others is None else [self._aligned, self._others]


def usual(limits: Sequence[float], persons: Sequence[int]) -> float:
    """The highest limit below which only few persons are; `persons` have each of these limits.

    An index that estimates looks at all whose estimate comes near it, so that it should be high.
    """
    below, chosen, everybody = 0, 0.0, sum(persons)
    for limit, count in sorted(zip(limits, persons, strict=True)):
        if limit == np.inf or (below and below * MOST_LOWER > everybody):
            break
        chosen, below = limit, below + count
    return chosen
