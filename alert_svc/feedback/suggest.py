"""What other thresholds would have done to the matches that were reported. Computes only; reads and changes nothing."""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from poi.v1 import feedback_pb2

from alert_svc.feedback.reports import IS_PERSON, Report

Outcome = feedback_pb2.SuggestThresholdResponse.Outcome

MIN_REPORTS: Final = 10
"""With fewer reports there is no suggestion."""
MIN_CONFIRMED: Final = 5
"""Nor with fewer confirmed matches among them: nobody could say whom it would miss."""


class Tally:
    """Collects the similarities of the matches that were reported, and compares them with thresholds."""

    def __init__(
        self, *, watchlist: str = "", poi: str = "", cameras: Iterable[str] = (), max_missed_share: float = 0.0
    ) -> None:
        """An empty part asks for all. `max_missed_share`: of the confirmed matches, 0 to 0.5."""
        self._watchlist, self._poi, self._cameras = watchlist, poi, frozenset(cameras)
        self._max_missed_share = max_missed_share
        self._confirmed: list[float] = []
        self._false: list[float] = []
        self._lowest = math.inf

    def add(self, report: Report) -> None:
        """Takes a report in, if it is one that was asked for and has a match."""
        match = report.match
        if (
            not report.HasField("match")
            or (self._watchlist and self._watchlist not in match.watchlists)
            or (self._poi and report.poi != self._poi)
            or (self._cameras and report.camera not in self._cameras)
        ):
            return
        (self._confirmed if report.verdict == IS_PERSON else self._false).append(match.similarity)
        # A match of a search may say no threshold.
        self._lowest = min(self._lowest, match.similarity, match.threshold or match.similarity)

    def response(self) -> feedback_pb2.SuggestThresholdResponse:
        """What came of it."""
        outcomes = self._outcomes()
        return feedback_pb2.SuggestThresholdResponse(
            suggestion=self._suggestion(outcomes),
            outcomes=outcomes,
            confirmed_count=len(self._confirmed),
            false_count=len(self._false),
        )

    def _outcomes(self) -> list[Outcome]:
        """From the last hundredth at which all of them alert to the first at which none does, within -1 and 1."""
        if self._lowest == math.inf:
            return []
        confirmed, false = sorted(self._confirmed), sorted(self._false)
        highest = max(confirmed[-1:] + false[-1:])
        first, last = _hundredth(self._lowest), _hundredth(highest) + 1
        steps = range(max(-100, min(first, 100)), max(-100, min(last, 100)) + 1)
        return [_outcome(_float32(step / 100), confirmed, false) for step in steps]

    def _suggestion(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        count = len(self._confirmed)
        if count < MIN_CONFIRMED or count + len(self._false) < MIN_REPORTS:
            return None
        allowed = math.floor(count * self._max_missed_share + 1e-9)  # 0.29 of 100 is 28.999...
        bearable = [outcome for outcome in outcomes if outcome.confirmed_missed <= allowed]
        best = min(bearable, key=lambda outcome: (outcome.false_kept, -outcome.threshold), default=None)
        return best if best is not None and best.false_avoided else None


def _outcome(threshold: float, confirmed: Sequence[float], false: Sequence[float]) -> Outcome:
    missed, avoided = bisect_left(confirmed, threshold), bisect_left(false, threshold)
    return Outcome(
        threshold=threshold,
        confirmed_kept=len(confirmed) - missed,
        confirmed_missed=missed,
        false_kept=len(false) - avoided,
        false_avoided=avoided,
    )


def _hundredth(similarity: float) -> int:
    """The last hundredth that the similarity, a float32, reaches: a threshold of 0.45 is 0.44999999."""
    step = math.floor(similarity * 100) + 1
    while _float32(step / 100) > similarity:
        step -= 1
    return step


def _float32(value: float) -> float:
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number
