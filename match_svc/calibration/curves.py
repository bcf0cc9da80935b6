"""From rates to cosines and back."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import Final, Self

import numpy as np

from match_svc.calibration.table import ALIGNED, UNALIGNED, Table

LEAST_COSINE: Final = 0.2
MOST_COSINE: Final = 0.9
LEAST_ERRORS: Final = 60
"""Ordered pairs, 30 pairs of photos, that a rate must rest on. Behind that the measured curve goes flat: what is left
are photos under a wrong name (on LFW five pairs up to a cosine of 0.8, a floor of 4e-7)."""
_TAIL_RATE: Final = 1e-3
"""The tail is fitted to what is rarer than that, where there are points enough."""
_FIT_POINTS: Final = 6
_LEAST_REACH: Final = 1e-2
"""A table must tell at least so low a rate: what is fitted to the middle of a distribution says nothing of its tail."""
_FLATTEST: Final = -10.0
"""Least fall of ln(rate) for 1 of cosine, where the fit says less: on LFW it is -30."""


class _Curve:
    """ln(rate) over cosine, strictly falling: a polyline where there are data, a parabola behind.

    Cosines of strangers are close to normally distributed, and ln of a normal distribution's tail is close to a
    parabola. It is fitted by least squares to the rarest rates that are certain, each weighted by its number of
    errors, as ln(rate) scatters with 1/sqrt(errors), and moved to go through the last one.
    """

    def __init__(self, thresholds: list[float], rates: list[float], pairs: int) -> None:
        """Raises ValueError when there is too little to go by."""
        certain = [(at, rate) for at, rate in zip(thresholds, rates, strict=True) if rate * pairs >= LEAST_ERRORS]
        self._cosines: list[float] = []
        self._falls: list[float] = []  # -ln(rate), rising
        for at, rate in certain:
            fall = -math.log(rate)
            if not self._falls or fall > self._falls[-1]:
                self._cosines.append(at)
                self._falls.append(fall)
        if len(self._cosines) < _FIT_POINTS or self._falls[-1] < -math.log(_LEAST_REACH):
            raise ValueError(f"{pairs} impostor pairs are too few to tell a rate of 1 in {1 / _LEAST_REACH:.0f} by")
        tail = [at for at, fall in enumerate(self._falls) if fall >= -math.log(_TAIL_RATE)]
        first = min(tail[0] if tail else len(self._falls), len(self._falls) - _FIT_POINTS)
        cosines, falls = np.array(self._cosines[first:]), np.array(self._falls[first:])
        self._end, self._end_fall = self._cosines[-1], self._falls[-1]
        errors = np.exp(-falls) * pairs
        bend, slope, _ = np.polyfit(cosines - self._end, -falls, 2, w=np.sqrt(errors))
        if bend > 0:
            bend = 0.0  # a tail heavier than any normal one is scatter
            slope, _ = np.polyfit(cosines - self._end, -falls, 1, w=np.sqrt(errors))
        self._bend, self._slope = float(bend), min(float(slope), _FLATTEST)

    def log_rate(self, cosine: float) -> float:
        """ln of the rate at which strangers reach this cosine."""
        if cosine > self._end:
            beyond = cosine - self._end
            return -self._end_fall + (self._slope + self._bend * beyond) * beyond
        at = bisect_right(self._cosines, cosine)
        if at == 0:
            return -self._falls[0]
        if at == len(self._cosines):
            return -self._end_fall
        return -_between(cosine, self._cosines, self._falls, at)

    def cosine(self, log_rate: float) -> tuple[float, bool]:
        """The cosine that strangers reach at this rate, and whether that is beyond the data."""
        fall = -log_rate
        if fall > self._end_fall:
            return self._end + self._beyond(fall - self._end_fall), True
        at = bisect_left(self._falls, fall)
        if at == 0:
            return self._cosines[0], False
        return _between(fall, self._falls, self._cosines, at), False

    def _beyond(self, fall: float) -> float:
        """The x > 0 at which slope x + bend x² is -fall; both are negative."""
        root = math.sqrt(self._slope * self._slope - 4 * self._bend * fall)
        return 2 * fall / (root - self._slope)


class Calibration:
    """How often strangers' faces reach a cosine, for one model. Immutable."""

    def __init__(self, model: str, source: str, aligned: _Curve, unaligned: _Curve) -> None:
        self.model = model
        self.source = source
        self._curves = (unaligned, aligned)

    @classmethod
    def of(cls, table: Table) -> Self:
        """Raises ValueError when there are too few pairs to tell anything by."""
        curves = []
        for name in (ALIGNED, UNALIGNED):
            pipeline = table.pipelines[name]
            try:
                curves.append(_Curve(table.thresholds, pipeline.fmr, pipeline.impostor_pairs))
            except ValueError as error:
                raise ValueError(f"pipelines.{name}: {error}") from None
        return cls(table.model, table.source, *curves)

    def cosine(self, rate_per_comparison: float, aligned: bool) -> tuple[float, bool]:
        """The least cosine that a stranger's face reaches no more often than that with one person.

        0.2 to 0.9, and whether the rate is lower than the data can tell, so that the cosine is extrapolated. Falls with
        the rate. `rate_per_comparison` is more than 0.
        """
        cosine, extrapolated = self._curves[aligned].cosine(math.log(rate_per_comparison))
        return min(MOST_COSINE, max(LEAST_COSINE, cosine)), extrapolated

    def false_match_rate(self, cosine: float, aligned: bool) -> float:
        """How often a stranger's face reaches this cosine with one person; extrapolated where that is rare."""
        return math.exp(self._curves[aligned].log_rate(cosine))


def _between(x: float, xs: list[float], ys: list[float], at: int) -> float:
    """On the straight line from the point before `at` to that one."""
    before = at - 1
    return ys[before] + (x - xs[before]) / (xs[at] - xs[before]) * (ys[at] - ys[before])
