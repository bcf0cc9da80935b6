"""A shift in numbers, and what it leaves to the next one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2

from alert_svc.alerts import severity
from alert_svc.log import AlertLog
from alert_svc.triage import OPEN, STEPS

_PAGE: Final = 1000
_MOST: Final = 100
"""Cameras, persons and open alerts that are listed; all are counted."""


async def summarize(
    log: AlertLog, store_id: str, start: Timestamp | None, end: Timestamp
) -> alert_pb2.SummarizeAlertsResponse:
    """Reads every alert that is kept and was raised before `end`: 1,000 a round trip, about 10 us each."""
    shift, before, more = Shift(start, end), "", True
    while more:
        alerts, before = await log.list(store_id, lambda _: True, end=end, before=before, limit=_PAGE)
        for alert in alerts:
            shift.add(alert)
        more = bool(before)
    return shift.response()


class Shift:
    """Counts alerts one by one."""

    def __init__(self, start: Timestamp | None, end: Timestamp) -> None:
        """An alert that was raised in [start, end) counts; from any time before it only adds to what is open."""
        self._interval = common_pb2.Interval(start_time=start, end_time=end)
        self._start_ns = start.ToNanoseconds() if start else 0
        self._total = self._suppressed = self._escalated = 0
        self._states: Counter[alert_pb2.AlertState.ValueType] = Counter()
        self._severities: Counter[common_pb2.Severity.ValueType] = Counter()
        self._cameras: Counter[str] = Counter()
        self._pois: Counter[str] = Counter()
        self._display_names: dict[str, str] = {}
        self._answers_ns: list[int] = []
        self._open: list[alert_pb2.Alert] = []

    def add(self, alert: alert_pb2.Alert) -> None:
        """Counts an alert that was raised before the end."""
        if alert.state in OPEN:
            self._open.append(alert)
        if alert.create_time.ToNanoseconds() < self._start_ns:
            return
        self._total += 1
        self._suppressed += alert.suppressed_count
        self._escalated += bool(alert.escalations)
        self._states[alert.state] += 1
        self._severities[severity(alert.match)] += 1
        self._cameras[alert.camera] += 1
        self._pois[alert.match.poi] += 1
        self._display_names.setdefault(alert.match.poi, alert.match.display_name)
        if answers := [
            getattr(alert, step.field).action_time.ToNanoseconds()
            for step in STEPS.values()
            if alert.HasField(step.field)  # type: ignore[arg-type]
        ]:
            self._answers_ns.append(min(answers) - alert.create_time.ToNanoseconds())

    def response(self) -> alert_pb2.SummarizeAlertsResponse:
        """The whole."""
        kinds = alert_pb2.SummarizeAlertsResponse
        self._open.sort(key=lambda alert: (-severity(alert.match), alert.create_time.ToNanoseconds()))
        answers = sorted(self._answers_ns)
        return kinds(
            interval=self._interval,
            alert_count=self._total,
            suppressed_count=self._suppressed,
            escalated_count=self._escalated,
            states=[kinds.StateCount(state=state, count=count) for state, count in sorted(self._states.items())],
            severities=[
                kinds.SeverityCount(severity=each, count=count)
                for each, count in sorted(self._severities.items(), reverse=True)
            ],
            cameras=[kinds.CameraCount(camera=name, count=count) for name, count in _top(self._cameras)],
            pois=[
                kinds.PoiCount(poi=name, display_name=self._display_names[name], count=count)
                for name, count in _top(self._pois)
            ],
            acknowledge_p50=_quantile(answers, 0.5),
            acknowledge_p95=_quantile(answers, 0.95),
            open_count=len(self._open),
            open_alerts=self._open[:_MOST],
        )


def _top(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent, by name where they are equally so."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST]


def _quantile(ordered: Sequence[int], share: float) -> Duration | None:
    """The smallest value that so large a share does not exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    made = Duration()
    made.FromNanoseconds(max(0, ordered[math.ceil(share * len(ordered)) - 1]))
    return made
