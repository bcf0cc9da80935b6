"""The rules of alerts: which one a match raises, what may be done about it, and which ones a client asks for."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2

from mesh import names
from mesh.errors import Aborted, FailedPrecondition, InvalidArgument

_END_OF_TIME = 253_402_300_800  # year 10000, where Timestamp ends


def alert_id(poi: str, appearance: str) -> str:
    """32 hex digits that depend only on the person and the appearance: raising twice is raising once."""
    return hashlib.blake2b(f"{poi}\n{appearance}".encode(), digest_size=16).hexdigest()


def new_alert(candidate: alert_pb2.AlertCandidate, store_id: str, now: Timestamp, field: str) -> alert_pb2.Alert:
    """The alert that a match raises. Raises InvalidArgument with a violation, under `field`, for each thing wrong."""
    match, wrong = candidate.match, list[tuple[str, str]]()

    def check_name(parse: Callable[[str, str], tuple[str, str]], name: str, part: str) -> None:
        try:
            in_store(parse, name, f"{field}.{part}", store_id)
        except InvalidArgument as error:
            wrong.extend(error.violations)

    check_name(names.parse_poi, match.poi, "match.poi")
    check_name(names.parse_appearance, candidate.appearance, "appearance")
    check_name(names.parse_camera, candidate.camera, "camera")
    for part, value in (("similarity", match.similarity), ("threshold", match.threshold)):
        if not math.isfinite(value):
            wrong.append((f"{field}.match.{part}", "must be finite"))
    time = candidate.detect_time
    if not (0 < time.seconds < _END_OF_TIME and 0 <= time.nanos < 10**9):
        wrong.append((f"{field}.detect_time", "is needed, later than 1970"))
    if wrong:
        raise InvalidArgument(violations=wrong, reason="INVALID_CANDIDATE")
    return alert_pb2.Alert(
        name=names.alert(store_id, alert_id(match.poi, candidate.appearance)),
        match=match,
        appearance=candidate.appearance,
        camera=candidate.camera,
        detection_id=candidate.detection_id,
        detect_time=time,
        person_box=candidate.person_box if candidate.HasField("person_box") else None,
        face_box=candidate.face_box if candidate.HasField("face_box") else None,
        state=alert_pb2.ALERT_STATE_NEW,
        create_time=now,
        update_time=now,
        etag=_new_etag(),
    )


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants to do about an alert: `state` is ACKNOWLEDGED or RESOLVED, `etag` "" or the one they saw."""

    state: alert_pb2.AlertState.ValueType
    actor: str
    note: str
    etag: str

    @property
    def event(self) -> alert_pb2.AlertEvent.ValueType:
        """What the log says of it."""
        if self.state == alert_pb2.ALERT_STATE_RESOLVED:
            return alert_pb2.ALERT_EVENT_RESOLVED
        return alert_pb2.ALERT_EVENT_ACKNOWLEDGED

    def apply(self, alert: alert_pb2.Alert, now: Timestamp) -> alert_pb2.Alert | None:
        """The alert afterwards; None where it has been done already, so that a repeat changes nothing.

        Raises FailedPrecondition (ALERT_RESOLVED) or Aborted (ETAG_MISMATCH).
        """
        if alert.state == alert_pb2.ALERT_STATE_RESOLVED != self.state:
            raise FailedPrecondition(
                "the alert is resolved", reason="ALERT_RESOLVED", metadata={"name": alert.name, "etag": alert.etag}
            )
        done = self._of(alert)
        # A call that is sent again because its answer was lost brings the etag from before its first run.
        is_repeat = alert.state == self.state and (done.actor, done.note) == (self.actor, self.note)
        if self.etag and self.etag != alert.etag and not is_repeat:
            raise Aborted(
                "the alert has changed: read it again",
                reason="ETAG_MISMATCH",
                metadata={"name": alert.name, "etag": alert.etag},
            )
        if alert.state == self.state:
            return None
        changed = alert_pb2.Alert()
        changed.CopyFrom(alert)
        changed.state = self.state
        changed.update_time.CopyFrom(now)
        changed.etag = _new_etag()
        self._of(changed).CopyFrom(alert_pb2.AlertAction(actor=self.actor, action_time=now, note=self.note))
        return changed

    def _of(self, alert: alert_pb2.Alert) -> alert_pb2.AlertAction:
        return alert.resolution if self.state == alert_pb2.ALERT_STATE_RESOLVED else alert.acknowledgement


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a client asks for; an empty part asks for all."""

    min_severity: common_pb2.Severity.ValueType = common_pb2.SEVERITY_UNSPECIFIED
    cameras: frozenset[str] = frozenset()
    pois: frozenset[str] = frozenset()
    state: alert_pb2.AlertState.ValueType = alert_pb2.ALERT_STATE_UNSPECIFIED

    def __call__(self, alert: alert_pb2.Alert) -> bool:
        """Whether this is one. A severity that was not said counts as MEDIUM, as in the registry."""
        return (
            (alert.match.severity or common_pb2.SEVERITY_MEDIUM) >= self.min_severity
            and (not self.cameras or alert.camera in self.cameras)
            and (not self.pois or alert.match.poi in self.pois)
            and (not self.state or alert.state == self.state)
        )


def requested(
    request: alert_pb2.StreamAlertsRequest | alert_pb2.ListAlertsRequest,
    store_id: str,
    state: alert_pb2.AlertState.ValueType,
) -> AlertFilter:
    """The filter of a request. Raises InvalidArgument for names that are none, or of another store."""

    def all_in_store(parse: Callable[[str, str], tuple[str, str]], values: Iterable[str], field: str) -> frozenset[str]:
        for index, name in enumerate(values):
            in_store(parse, name, f"{field}[{index}]", store_id)
        return frozenset(values)

    return AlertFilter(
        request.min_severity,
        all_in_store(names.parse_camera, request.cameras, "cameras"),
        all_in_store(names.parse_poi, request.pois, "pois"),
        state,
    )


def in_store(parse: Callable[[str, str], tuple[str, str]], name: str, field: str, store_id: str) -> None:
    """Raises InvalidArgument unless `name` parses and belongs to the store."""
    if parse(name, field)[0] != store_id:
        raise InvalidArgument(violations=[(field, f"is not of {names.store(store_id)}")], reason="WRONG_STORE")


def _new_etag() -> str:
    return secrets.token_hex(8)
