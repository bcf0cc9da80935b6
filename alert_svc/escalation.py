"""What makes an open alert more urgent, or a later appearance a part of it: the alert afterwards, or None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2, match_pb2

from alert_svc.alerts import MOST_RUNNERS_UP, runners_up, severity, touched
from alert_svc.triage import NEW, OPEN

_EPSILON: Final = 1e-6  # similarities are float32: 0.6 - 0.5 must be a margin of 0.1


def absorbed(
    alert: alert_pb2.Alert,
    again: Sequence[alert_pb2.Alert],
    repeats: Sequence[alert_pb2.Alert],
    others: Sequence[alert_pb2.Alert],
    margin: float,
    now: Timestamp,
) -> alert_pb2.Alert | None:
    """The open alert after later matches of the same person; None where they change nothing, as a repeated call must.

    `again` are matches that the alert knows of: they can only escalate it. `repeats` are appearances that are new, and
    are counted. `others` are better matches of other persons, whose runner-up is the alert's. Severity and
    similarities only ever rise, so that whatever is sent twice changes nothing.
    """
    if alert.state not in OPEN:
        return None
    changed = touched(alert, now)
    for later in (*again, *repeats):
        _escalate(changed, later, margin, now)
        _name_runners_up(changed, later.runners_up, later.detection_id, margin, now)
    for other in others:
        _raise_severity(changed, other, now)
        _name_runners_up(changed, [other.match, *other.runners_up], other.detection_id, margin, now)
    for repeat in repeats:
        changed.suppressed_count += 1
        if repeat.detect_time.ToNanoseconds() > changed.last_suppressed_time.ToNanoseconds():
            changed.last_suppressed_time.CopyFrom(repeat.detect_time)
    is_changed = repeats or len(changed.escalations) > len(alert.escalations)
    return changed if is_changed else None


def event_of(before: alert_pb2.Alert, after: alert_pb2.Alert) -> alert_pb2.AlertEvent.ValueType:
    """What the log says of an `absorbed` alert."""
    if len(after.escalations) > len(before.escalations):
        return alert_pb2.ALERT_EVENT_ESCALATED
    return alert_pb2.ALERT_EVENT_SUPPRESSED


def overdue(alert: alert_pb2.Alert, now: Timestamp) -> alert_pb2.Alert | None:
    """The alert that nobody has looked at for too long; None where it waits for nobody, or has escalated so already."""
    if not waits(alert):
        return None
    changed = touched(alert, now)
    _note(changed, alert_pb2.ESCALATION_REASON_UNACKNOWLEDGED, "", now)
    return changed


def waits(alert: alert_pb2.Alert) -> bool:
    """Whether it escalates when nobody looks at it."""
    return (
        alert.state == NEW
        and severity(alert.match) >= common_pb2.SEVERITY_HIGH
        and all(each.reason != alert_pb2.ESCALATION_REASON_UNACKNOWLEDGED for each in alert.escalations)
    )


def _escalate(alert: alert_pb2.Alert, later: alert_pb2.Alert, margin: float, now: Timestamp) -> None:
    worst = _raise_severity(alert, later, now)
    # Whoever follows a list that it was, or now is, on hears of what happens to it.
    lists = list(dict.fromkeys((*alert.match.watchlists, *later.match.watchlists)))
    if later.match.similarity >= alert.match.similarity + margin - _EPSILON:
        alert.match.CopyFrom(later.match)
        alert.match.severity = worst
        _note(alert, alert_pb2.ESCALATION_REASON_SIMILARITY, later.detection_id, now)
    alert.match.watchlists[:] = lists


def _raise_severity(alert: alert_pb2.Alert, later: alert_pb2.Alert, now: Timestamp) -> common_pb2.Severity.ValueType:
    worst = max(severity(alert.match), severity(later.match))
    if worst > severity(alert.match):
        alert.match.severity = worst
        _note(alert, alert_pb2.ESCALATION_REASON_SEVERITY, later.detection_id, now)
    return worst


def _name_runners_up(
    alert: alert_pb2.Alert, matches: Iterable[match_pb2.Match], detection_id: str, margin: float, now: Timestamp
) -> None:
    """Names persons that are new to the alert, or much more similar than it says; one note for all of a face."""
    named = {match.poi: match for match in alert.runners_up}
    is_news = False
    for match in matches:
        known = named.get(match.poi)
        is_better = known is not None and match.similarity >= known.similarity + margin - _EPSILON
        if match.poi == alert.match.poi or not (is_better or (known is None and len(named) < MOST_RUNNERS_UP)):
            continue
        named[match.poi] = match
        is_news = True
    if is_news:
        kept = runners_up(named.values())
        del alert.runners_up[:]
        alert.runners_up.extend(kept)
        _note(alert, alert_pb2.ESCALATION_REASON_RUNNER_UP, detection_id, now)


def _note(
    alert: alert_pb2.Alert, reason: alert_pb2.EscalationReason.ValueType, detection_id: str, now: Timestamp
) -> None:
    alert.escalations.add(
        reason=reason,
        escalate_time=now,
        severity=alert.match.severity,
        similarity=alert.match.similarity,
        detection_id=detection_id,
    )
