"""The log as a target: one structured line an event, for whoever collects logs."""

from __future__ import annotations

import structlog
from poi.v1 import alert_pb2, common_pb2

from alert_svc.delivery.sender import Message

_log = structlog.get_logger(__name__)


class LogSender:
    """Writes resource names only: nobody's name, no face, no box."""

    async def send(self, message: Message) -> None:
        """Writes the line."""
        content, alert = message.content, message.alert
        _log.info(
            "alert_delivery",
            delivery=content.delivery,
            test=content.test,
            change=alert_pb2.AlertEvent.Name(content.event).removeprefix("ALERT_EVENT_"),
            alert=alert.name,
            poi=alert.match.poi,
            camera=alert.camera,
            severity=common_pb2.Severity.Name(alert.match.severity).removeprefix("SEVERITY_"),
            detect_time=alert.detect_time.ToJsonString() if alert.HasField("detect_time") else None,
        )

    async def close(self) -> None:
        """Nothing to end."""
