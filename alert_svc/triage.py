"""What people may do about an alert: one table of states, and the change that an action makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc.alerts import touched
from mesh.errors import Aborted, FailedPrecondition

State = alert_pb2.AlertState

NEW: Final = alert_pb2.ALERT_STATE_NEW
ACKNOWLEDGED: Final = alert_pb2.ALERT_STATE_ACKNOWLEDGED
CONFIRMED: Final = alert_pb2.ALERT_STATE_CONFIRMED
FALSE_MATCH: Final = alert_pb2.ALERT_STATE_FALSE_MATCH
RESOLVED: Final = alert_pb2.ALERT_STATE_RESOLVED


class _Step(NamedTuple):
    """How a state is reached: from which ones, as which event, and where the alert says who did it."""

    sources: frozenset[State.ValueType]
    event: alert_pb2.AlertEvent.ValueType
    field: str


# CONFIRMED and FALSE_MATCH lead to each other, because people make mistakes. RESOLVED is for good.
STEPS: Final[dict[State.ValueType, _Step]] = {
    ACKNOWLEDGED: _Step(frozenset({NEW}), alert_pb2.ALERT_EVENT_ACKNOWLEDGED, "acknowledgement"),
    CONFIRMED: _Step(frozenset({NEW, ACKNOWLEDGED, FALSE_MATCH}), alert_pb2.ALERT_EVENT_CONFIRMED, "confirmation"),
    FALSE_MATCH: _Step(frozenset({NEW, ACKNOWLEDGED, CONFIRMED}), alert_pb2.ALERT_EVENT_REJECTED, "rejection"),
    RESOLVED: _Step(frozenset({NEW, ACKNOWLEDGED, CONFIRMED}), alert_pb2.ALERT_EVENT_RESOLVED, "resolution"),
}
"""Each state that somebody can bring an alert to."""

OPEN: Final = frozenset({NEW, ACKNOWLEDGED, CONFIRMED})
"""The states in which an alert still asks for something: it takes in repeats and escalates."""


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants to do about an alert: `state` is one of `STEPS`, `etag` "" or the one they saw."""

    state: State.ValueType
    actor: str
    note: str
    etag: str

    @property
    def event(self) -> alert_pb2.AlertEvent.ValueType:
        """What the log says of it."""
        return STEPS[self.state].event

    def apply(self, alert: alert_pb2.Alert, now: Timestamp) -> alert_pb2.Alert | None:
        """The alert afterwards; None where it has been done already, so that a repeat changes nothing.

        Raises FailedPrecondition (ALERT_RESOLVED, ILLEGAL_TRANSITION) or Aborted (ETAG_MISMATCH).
        """
        step = STEPS[self.state]
        is_done = alert.state == self.state
        if not is_done and alert.state not in step.sources:
            raise self._refusal(alert)
        said: alert_pb2.AlertAction = getattr(alert, step.field)
        # A call that is sent again because its answer was lost brings the etag from before its first run.
        is_repeat = is_done and (said.actor, said.note) == (self.actor, self.note)
        if self.etag and self.etag != alert.etag and not is_repeat:
            raise Aborted(
                "the alert has changed: read it again",
                reason="ETAG_MISMATCH",
                metadata={"name": alert.name, "etag": alert.etag},
            )
        if is_done:
            return None
        changed = touched(alert, now)
        changed.state = self.state
        getattr(changed, step.field).CopyFrom(alert_pb2.AlertAction(actor=self.actor, action_time=now, note=self.note))
        return changed

    def _refusal(self, alert: alert_pb2.Alert) -> FailedPrecondition:
        current, wanted = (State.Name(state).removeprefix("ALERT_STATE_") for state in (alert.state, self.state))
        is_resolved = alert.state == RESOLVED
        return FailedPrecondition(
            "the alert is resolved" if is_resolved else f"an alert that is {current} cannot become {wanted}",
            reason="ALERT_RESOLVED" if is_resolved else "ILLEGAL_TRANSITION",
            metadata={"name": alert.name, "etag": alert.etag, "from": current, "to": wanted},
        )
