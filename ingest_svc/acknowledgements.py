"""Acknowledges messages to the broker in the order in which they came, each when all of its use is durable."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ingest_svc.mqtt import Token


class Delivery:
    """One message on its way through the mesh."""

    __slots__ = ("received", "token", "waiting")

    def __init__(self, token: Token) -> None:
        self.token = token
        self.received = time.monotonic()
        self.waiting = 1
        """Parts that are not yet durable; the first one is reading it."""


class Acknowledgements:
    """The messages that came in and are not acknowledged. MQTT 5 wants acknowledgements in order of arrival (4.6)."""

    def __init__(self, acknowledge: Callable[[Token], None]) -> None:
        self._acknowledge = acknowledge
        self._pending: deque[Delivery] = deque()
        self.count = 0
        """Messages that were acknowledged."""
        self.on_change: Callable[[int], None] = lambda pending: None
        """Called with the number of pending messages when it fell."""

    def open(self, token: Token) -> Delivery:
        """A message came in."""
        delivery = Delivery(token)
        self._pending.append(delivery)
        return delivery

    def done(self, delivery: Delivery, parts: int = 1) -> None:
        """Parts of the message are durable, or refused for good."""
        delivery.waiting -= parts
        pending = self._pending
        if delivery.waiting or pending[0] is not delivery:
            return
        while pending and not pending[0].waiting:
            self._acknowledge(pending.popleft().token)
            self.count += 1
        self.on_change(len(pending))

    @property
    def pending(self) -> int:
        """How many messages are pending."""
        return len(self._pending)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest pending message has waited."""
        return time.monotonic() - self._pending[0].received if self._pending else 0.0
