"""What a report is, how it is kept, and what follows from it for the pair's alert.

The id of a pair's report is the id of the alert that the pair raises, or would raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, feedback_pb2, match_pb2

from alert_svc.alerts import alert_id, in_store
from alert_svc.times import ns, time_key
from alert_svc.triage import CONFIRMED, FALSE_MATCH, STEPS, Action
from mesh import names
from mesh.errors import InvalidArgument

Report = feedback_pb2.MatchReport
Verdict = feedback_pb2.MatchVerdict

IS_PERSON: Final = feedback_pb2.MATCH_VERDICT_CONFIRMED
NOT_THIS_PERSON: Final = feedback_pb2.MATCH_VERDICT_NOT_THIS_PERSON

_STATES: Final = {IS_PERSON: CONFIRMED, NOT_THIS_PERSON: FALSE_MATCH}
_VERDICTS: Final = {state: verdict for verdict, state in _STATES.items()}
_MAX_MATCH_BYTES: Final = 32_768
_MAX_COSINE: Final = 1.001  # of float32 vectors
_COSINES: Final = ("similarity", "threshold", "face_similarity")
_RATES: Final = ("false_match_rate", "similarity_false_match_rate")
HEAD: Final = 17
"""Before the message, a record has 16 hex digits of its time, as in the index, and a digit of its verdict: the scripts
read these."""


def key(store_id: str) -> str:
    """The hash of a store's reports: id -> record."""
    return f"poi:{{{store_id}}}:feedback"


def index_key(store_id: str) -> str:
    """The sorted set of time key and id of a store's reports."""
    return f"{key(store_id)}:index"


def packed(report: Report) -> bytes:
    """The record of a report."""
    return f"{time_key(ns(report.report_time))}{int(report.verdict)}".encode() + report.SerializeToString()


def unpacked(record: bytes) -> Report:
    """The report of a record."""
    return Report.FromString(record[HEAD:])


def of_alert(alert: alert_pb2.Alert) -> Report | None:
    """What whoever brought the alert to its state said of its match; None where that is no verdict."""
    verdict = _VERDICTS.get(alert.state)
    if verdict is None:
        return None
    said: alert_pb2.AlertAction = getattr(alert, STEPS[alert.state].field)
    store_id, pair = names.parse_alert(alert.name)
    return Report(
        name=names.match_report(store_id, pair),
        appearance=alert.appearance,
        poi=alert.match.poi,
        verdict=verdict,
        actor=said.actor,
        note=said.note,
        report_time=said.action_time,
        camera=alert.camera,
        alert=alert.name,
        match=alert.match,
    )


def requested(request: feedback_pb2.ReportMatchRequest, store_id: str, now: Timestamp) -> Report:
    """The report that a request makes. Raises InvalidArgument with a violation for each thing wrong."""
    wrong: list[tuple[str, str]] = []

    def check(parse: Callable[[str, str], tuple[str, str]], name: str, field: str) -> None:
        try:
            in_store(parse, name, field, store_id)
        except InvalidArgument as error:
            wrong.extend(error.violations)

    check(names.parse_appearance, request.appearance, "appearance")
    check(names.parse_poi, request.poi, "poi")
    if request.camera:
        check(names.parse_camera, request.camera, "camera")
    match = request.match if request.HasField("match") else None
    if match is not None:
        for index, name in enumerate(match.watchlists):
            check(names.parse_watchlist, name, f"match.watchlists[{index}]")
        wrong += _wrong_of(match, request.poi)
    if wrong:
        raise InvalidArgument(violations=wrong, reason="INVALID_REPORT")
    report = Report(
        name=names.match_report(store_id, alert_id(request.poi, request.appearance)),
        appearance=request.appearance,
        poi=request.poi,
        verdict=request.verdict,
        actor=request.actor,
        note=request.note,
        report_time=now,
        camera=request.camera,
        match=match,
    )
    if match is not None:
        report.match.poi = request.poi
    return report


def completed(said: Report, alert: alert_pb2.Alert | None, earlier: Report | None) -> Report:
    """The report with what it does not say itself: from the pair's alert, else from what was said of it before."""
    report = Report()
    report.CopyFrom(said)
    for known in (alert, earlier):
        if known is None:
            continue
        report.camera = report.camera or known.camera
        if known.HasField("match") and not report.HasField("match"):
            report.match.CopyFrom(known.match)
    report.alert = alert.name if alert else earlier.alert if earlier else ""
    return report


def consequence(alert: alert_pb2.Alert | None, report: Report) -> alert_pb2.Alert | None:
    """The pair's alert confirmed or rejected; None where it is that already, or may not become it: it is resolved."""
    state = _STATES[report.verdict]
    if alert is None or alert.state not in STEPS[state].sources:
        return None
    return Action(state, report.actor, report.note, etag="").apply(alert, report.report_time)


def is_repeat(report: Report, earlier: Report | None) -> bool:
    """Whether it says what was said before."""
    if earlier is None:
        return False
    again = Report()
    again.CopyFrom(report)
    again.report_time.CopyFrom(earlier.report_time)
    return again == earlier


def _wrong_of(match: match_pb2.Match, poi: str) -> list[tuple[str, str]]:
    wrong = [
        (f"match.{field}", "must be a cosine similarity")
        for field in _COSINES
        if not abs(getattr(match, field)) <= _MAX_COSINE  # nor is NaN
    ]
    wrong += [(f"match.{field}", "must be a rate, 0 to 1") for field in _RATES if not 0 <= getattr(match, field) <= 1]
    if match.poi not in ("", poi):
        wrong.append(("match.poi", "must be the person of the report"))
    if match.ByteSize() > _MAX_MATCH_BYTES:
        wrong.append(("match", f"must have {_MAX_MATCH_BYTES} bytes at most"))
    return wrong
