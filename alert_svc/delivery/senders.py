"""Makes the sender of a target."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from poi.v1 import delivery_pb2

from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.logline import LogSender
from alert_svc.delivery.mqtt import MqttSender
from alert_svc.delivery.sender import Sender
from alert_svc.delivery.webhook import WebhookSender


@dataclass(frozen=True, slots=True)
class Senders:
    """What senders need beside their target. `own_broker`: URL of the store's MQTT broker. `timeout`: seconds.
    `retention_seconds`: how long alerts are kept."""

    guard: Guard
    tls: ssl.SSLContext
    own_broker: str
    timeout: float
    retention_seconds: float

    def make(self, target: delivery_pb2.Target) -> Sender | None:
        """The sender of a target; None for one whose clients connect to us."""
        match target.WhichOneof("kind"):
            case "webhook":
                return WebhookSender(target.webhook, self.guard, self.tls, timeout=self.timeout)
            case "mqtt":
                return MqttSender(
                    target.mqtt,
                    self.own_broker,
                    self.guard,
                    self.tls,
                    timeout=self.timeout,
                    retention_seconds=self.retention_seconds,
                )
            case "log":
                return LogSender()
            case _:
                return None
