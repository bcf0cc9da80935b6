"""The rules of alerts: which one a match raises, and which ones a client asks for."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2, match_pb2

from mesh import names
from mesh.errors import InvalidArgument

_END_OF_TIME = 253_402_300_800  # year 10000, where Timestamp ends
MOST_RUNNERS_UP = 10
"""Of an alert. Who is above the threshold with more than these is hardly told apart."""


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
    wrong.extend((path, "must be finite") for path in odd_numbers(candidate, field))
    for index, other in enumerate(candidate.runners_up):
        check_name(names.parse_poi, other.poi, f"runners_up[{index}].poi")
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
        runners_up=runners_up([other for other in candidate.runners_up if other.poi != match.poi]),
    )


def odd_numbers(message: Message, path: str) -> Iterator[str]:
    """The fields of a message, at any depth, whose numbers are not finite."""
    for field, value in message.ListFields():
        values = enumerate(value) if field.is_repeated else ((None, value),)
        for index, one in values:
            where = f"{path}.{field.name}" + ("" if index is None else f"[{index}]")
            if isinstance(one, Message):
                yield from odd_numbers(one, where)
            elif isinstance(one, float) and not math.isfinite(one):
                yield where


def runners_up(matches: Iterable[match_pb2.Match]) -> list[match_pb2.Match]:
    """Those that an alert names: the most similar first, each person once."""
    ordered = sorted(matches, key=lambda match: -match.similarity)
    return list({match.poi: match for match in reversed(ordered)}.values())[::-1][:MOST_RUNNERS_UP]


def touched(alert: alert_pb2.Alert, now: Timestamp) -> alert_pb2.Alert:
    """A copy to be changed: with another etag and the time of the change."""
    copy = alert_pb2.Alert()
    copy.CopyFrom(alert)
    copy.update_time.CopyFrom(now)
    copy.etag = _new_etag()
    return copy


def severity(match: match_pb2.Match) -> common_pb2.Severity.ValueType:
    """How much the person matters. What was not said counts as MEDIUM, as in the registry."""
    return match.severity or common_pb2.SEVERITY_MEDIUM


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a client asks for; an empty part asks for all."""

    min_severity: common_pb2.Severity.ValueType = common_pb2.SEVERITY_UNSPECIFIED
    cameras: frozenset[str] = frozenset()
    pois: frozenset[str] = frozenset()
    states: frozenset[alert_pb2.AlertState.ValueType] = frozenset()
    watchlists: frozenset[str] = frozenset()

    def __call__(self, alert: alert_pb2.Alert) -> bool:
        """Whether this is one."""
        if alert.name and not alert.match.poi:
            return True  # erased: only its name is left, and whoever may have a copy is told
        return (
            severity(alert.match) >= self.min_severity
            and (not self.cameras or alert.camera in self.cameras)
            and (not self.states or alert.state in self.states)
            and (not (self.pois or self.watchlists) or any(map(self._is_of, (alert.match, *alert.runners_up))))
        )

    def _is_of(self, match: match_pb2.Match) -> bool:
        """Whether it is of such a person: a runner-up counts, who may be the one that is looked for."""
        return (not self.pois or match.poi in self.pois) and (
            not self.watchlists or not self.watchlists.isdisjoint(match.watchlists)
        )


def requested(
    request: alert_pb2.StreamAlertsRequest | alert_pb2.ListAlertsRequest,
    store_id: str,
    states: Iterable[alert_pb2.AlertState.ValueType],
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
        frozenset(states) - {alert_pb2.ALERT_STATE_UNSPECIFIED},
        all_in_store(names.parse_watchlist, request.watchlists, "watchlists"),
    )


def in_store(parse: Callable[[str, str], tuple[str, str]], name: str, field: str, store_id: str) -> None:
    """Raises InvalidArgument unless `name` parses and belongs to the store."""
    if parse(name, field)[0] != store_id:
        raise InvalidArgument(violations=[(field, f"is not of {names.store(store_id)}")], reason="WRONG_STORE")


def _new_etag() -> str:
    return secrets.token_hex(8)
