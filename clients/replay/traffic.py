"""What a replay plays: messages in the order and at the times of their sending."""

import heapq
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """One MQTT message of a camera or a scene."""

    due_ms: float
    """When to send it, in milliseconds after the start of the traffic, at speed 1."""
    topic: str
    payload: bytes
    camera: str
    """The camera's id; "" for a message of a scene."""
    timestamp_ms: int
    """The event time inside the payload, in milliseconds since the epoch."""


class Traffic(Protocol):
    """A source of messages. The same `start_ms` MUST give the same messages."""

    @property
    def duration_ms(self) -> float | None:
        """`due_ms` of the last message; None for traffic without an end."""

    def messages(self, start_ms: int) -> Iterator[Message]:
        """The messages in order of `due_ms`, with event times from `start_ms` on (milliseconds since the epoch)."""


class Mixed:
    """Several traffics at once, in the order of their messages."""

    def __init__(self, parts: Sequence[Traffic]) -> None:
        self._parts = parts

    @property
    def duration_ms(self) -> float | None:
        durations = [part.duration_ms for part in self._parts]
        finite = [duration for duration in durations if duration is not None]
        return max(finite, default=0.0) if len(finite) == len(durations) else None

    def messages(self, start_ms: int) -> Iterator[Message]:
        return heapq.merge(*(part.messages(start_ms) for part in self._parts), key=lambda message: message.due_ms)


def iso(epoch_ms: int) -> str:
    """Milliseconds since the epoch -> ISO 8601 as cameras write it, such as "2026-11-20T09:00:00.080Z"."""
    seconds, millis = divmod(epoch_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{millis:03d}Z"


def epoch_ms(timestamp: str) -> int:
    """ISO 8601 -> milliseconds since the epoch; a time without a zone is UTC.

    Raises:
        ValueError: not ISO 8601.
    """
    moment = datetime.fromisoformat(timestamp)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
