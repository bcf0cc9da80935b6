"""What the worker asks of each kind of target, and the message that it hands over."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.json_format import MessageToJson
from poi.v1 import alert_pb2, delivery_pb2


class Failed(Exception):
    """The message did not reach the target; the text says why, without secrets, names or contents.

    `retry_after`: seconds that the target asks for. `refused`: the target does not want this message, whenever.
    """

    def __init__(self, why: str, *, retry_after: float | None = None, refused: bool = False) -> None:
        super().__init__(why)
        self.retry_after, self.refused = retry_after, refused


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way: its contents, and the same as JSON in UTF-8."""

    content: delivery_pb2.DeliveryMessage
    body: bytes

    @classmethod
    def of(cls, content: delivery_pb2.DeliveryMessage) -> Message:
        """The message with these contents."""
        return cls(content, MessageToJson(content, indent=None).encode())

    @classmethod
    def test(cls, target: str) -> Message:
        """A message that is about nothing."""
        name = f"{target}/deliveries/test-{time.time_ns()}"
        return cls.of(delivery_pb2.DeliveryMessage(delivery=name, test=True))

    @property
    def alert(self) -> alert_pb2.Alert:
        """What it is about."""
        return self.content.alert


class Sender(Protocol):
    """Sends to one target, one message after the other."""

    async def send(self, message: Message) -> None:
        """Returns when the target has the message for good. MUST be cancellable at any time.

        Raises Failed, with the reason for people to read; TimeoutError, OSError are taken as such too.
        """

    async def close(self) -> None:
        """Ends connections."""
