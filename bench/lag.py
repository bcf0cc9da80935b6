"""Whether a mesh keeps up with its cameras: the lag from samples of what it has acknowledged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from statistics import median
from typing import NamedTuple

GROWTH_LIMIT_S = 0.1
"""The median lag of the last third may exceed that of the first by this much: less than a camera's frame at 10 a
second. A mesh that is 1 % too slow gains 200 ms over 30 s."""
LAG_LIMIT_S = 2.0
"""A pause as long as this is no steady state, whatever comes after."""


class Lag(NamedTuple):
    """Seconds."""

    first: float
    last: float
    most: float

    @property
    def growing(self) -> bool:
        """More messages came than went."""
        return self.last > self.first + GROWTH_LIMIT_S or self.most > LAG_LIMIT_S


def measure(published: Sequence[float], samples: Sequence[tuple[float, int]]) -> Lag:
    """The lag while messages were published.

    Args:
        published: when each message was published, ascending, seconds.
        samples: (moment on the same clock, messages acknowledged by then), ascending.

    Raises:
        ValueError: fewer than three samples lie between the first and the last message.
    """
    start, end = published[0], published[-1]
    lags: list[tuple[float, float]] = []
    for at, acknowledged in samples:
        if start < at <= end:
            out = bisect_right(published, at)
            lags.append((at, at - published[acknowledged] if acknowledged < out else 0.0))
    third = (end - start) / 3
    first = [lag for at, lag in lags if at <= start + third]
    last = [lag for at, lag in lags if at > end - third]
    if not first or not last:
        raise ValueError(f"{len(lags)} samples within {end - start:.1f} s do not tell a lag")
    return Lag(median(first), median(last), max(lag for _, lag in lags))


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    return ascending[max(ceil(share * len(ascending)) - 1, 0)]
