"""What happened to an alert, from the log, as the audit trail of a case file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc.export.records import ExportRecord
from alert_svc.kept import Kept
from alert_svc.keys import log_key
from mesh import names
from mesh.redis import Redis

_PAGE: Final = 256
_CLOCK_SKEW_MS: Final = 60_000
"""How far a server's clock may be from Redis's, by which the log's entries are named."""

# Which field of an alert says who did what the event tells, and when.
_ACTIONS: Final = {
    alert_pb2.ALERT_EVENT_ACKNOWLEDGED: "acknowledgement",
    alert_pb2.ALERT_EVENT_CONFIRMED: "confirmation",
    alert_pb2.ALERT_EVENT_REJECTED: "rejection",
    alert_pb2.ALERT_EVENT_RESOLVED: "resolution",
}


async def read(redis: Redis, kept: Kept, alert: alert_pb2.Alert, exports: list[ExportRecord]) -> list[dict[str, Any]]:
    """Every event of the alert, exports included, oldest first; each change with the whole alert after it."""
    store_id = names.parse_alert(alert.name)[0]
    low, high = alert.create_time.ToMilliseconds() - _CLOCK_SKEW_MS, alert.update_time.ToMilliseconds() + _CLOCK_SKEW_MS
    name, events, start = alert.name.encode(), list[dict[str, Any]](), str(max(0, low))
    while True:
        page: Any = await redis.xrange(log_key(store_id), min=start, max=str(high), count=_PAGE)
        for raw_id, fields in page:
            change = kept.change(store_id, raw_id.decode("ascii"), fields)
            if change is None or name not in change.snapshot:  # most are of others, and need not be parsed
                continue
            after = alert_pb2.Alert.FromString(change.snapshot)
            if after.name == alert.name:
                events.append(_event(change.cursor, change.event, after))
        if len(page) < _PAGE:
            break
        start = f"({page[-1][0].decode('ascii')}"
    events += [{"event": "EXPORTED", **asdict(one)} for one in exports]
    return sorted(events, key=lambda one: str(one["time"]))


def to_json(message: Any) -> dict[str, Any]:
    """A message as canonical protobuf JSON."""
    return MessageToDict(message)


def time_text(moment: Timestamp) -> str:
    """ISO 8601 in UTC, always to the microsecond, so that texts sort as times do."""
    return moment.ToDatetime().isoformat(timespec="microseconds") + "Z"


def _event(cursor: str, number: int, after: alert_pb2.Alert) -> dict[str, Any]:
    event = alert_pb2.AlertEvent.Name(alert_pb2.AlertEvent.ValueType(number)).removeprefix("ALERT_EVENT_")
    told: dict[str, Any] = {"event": event, "time": time_text(after.update_time), "cursor": cursor}
    if field := _ACTIONS.get(alert_pb2.AlertEvent.ValueType(number)):
        said: alert_pb2.AlertAction = getattr(after, field)
        told |= {"actor": said.actor, "note": said.note}
    return told | {"alert": to_json(after)}
