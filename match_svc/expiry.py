"""Who of a store's persons has expired, as time goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from match_svc.rows import Column

Times = NDArray[np.float64]


class Turned(NamedTuple):
    """Numbers of the persons for whom it is no longer as it was."""

    expired: list[int]
    back: list[int]
    """Expired no longer: the clock was ahead, and was set right."""


class Expiries:
    """By number of each person when they expire, and whether they count as expired. Times are seconds since 1970.

    Asking whether somebody's time has come costs two comparisons, whatever the number of persons.
    """

    def __init__(self) -> None:
        self._until = Column((), np.float64)  # infinite for those who never expire, or are gone
        self._expired = Column((), np.bool_)
        self._soonest = math.inf  # no one expires before
        self._latest = -math.inf  # no one expired after

    @property
    def until(self) -> Times:
        """(n,) when each person expires: a view, in which those who go become infinite."""
        return self._until.items

    def add(self, until: Sequence[float], now: float) -> list[bool]:
        """Take in the persons with the next numbers; which of them have expired."""
        times = np.array(until, np.float64)
        expired = times <= now
        self._until.extend(times)
        self._expired.extend(expired)
        self._soonest = min(self._soonest, float(times[~expired].min(initial=math.inf)))
        self._latest = max(self._latest, float(times[expired].max(initial=-math.inf)))
        found: list[bool] = expired.tolist()
        return found

    def remove(self, number: int) -> bool:
        """Leave out a person; whether they counted as expired."""
        expired = bool(self._expired.items[number])
        self._until.items[number] = math.inf
        self._expired.items[number] = False
        return expired

    def due(self, now: float) -> bool:
        """Whether `turn` may have something to do."""
        return now >= self._soonest or now < self._latest

    def turn(self, now: float) -> Turned:
        """Count as expired whose time has come, and as present whose time has not."""
        until, was = self._until.items, self._expired.items
        expired = until <= now
        changed = np.flatnonzero(expired != was)
        turned = Turned(changed[expired[changed]].tolist(), changed[~expired[changed]].tolist())
        was[changed] = expired[changed]
        self._soonest = float(until[~expired].min(initial=math.inf))
        self._latest = float(until[expired].max(initial=-math.inf))
        return turned
