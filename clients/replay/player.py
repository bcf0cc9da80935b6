"""The replay itself: each message at its time, by one thread that also serves the connection."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from clients.replay.evidence import Evidence
from clients.replay.publisher import Publisher
from clients.replay.traffic import Message, Traffic

_PROGRESS_EVERY_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a replay is."""

    at_ms: float
    """Position in the traffic: `due_ms` of the last message published."""
    duration_ms: float | None
    published: int
    confirmed: int
    """Messages that the broker has confirmed, repeats after a reconnect included as they were not before."""
    repeated: int
    """Messages published once more because the connection was lost."""
    unheard: int
    """Messages of which the broker said that nobody subscribes."""
    lag_s: float
    """How late the last message was published."""
    max_lag_s: float
    connected: bool


class Replay:
    """Publishes a traffic to a broker, once.

    Args:
        traffic: what to publish.
        url: of the broker, see `Publisher`.
        speed: how many times faster than recorded; event times keep their own spacing. `math.inf`: as fast as it goes.
        start_ms: event time of the traffic's start, milliseconds since the epoch. Default: such that the last message
            carries the time at which it is published (at speed 1 the first one does too), so that no event lies in the
            future.
        evidence: answers requests for camera frames while the replay runs, and `linger_s` longer.
        on_progress: called by the thread that runs, about ten times a second and when all is confirmed.
        repeat_seconds: how many seconds of confirmed messages are published again after the connection was lost; they
            are kept in memory so long.
        confirm_timeout_s: how long to wait at the end until the broker has confirmed everything.
        linger_s: how long to go on answering requests for frames at the end, where there is `evidence`.
    """

    def __init__(
        self,
        traffic: Traffic,
        url: str,
        *,
        speed: float = 1.0,
        start_ms: int | None = None,
        evidence: Evidence | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        repeat_seconds: float = 5.0,
        confirm_timeout_s: float = 30.0,
        linger_s: float = 2.0,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be more than 0, not {speed}")
        if traffic.duration_ms is None and speed != 1:
            raise ValueError("traffic without an end plays at speed 1 only: its event times would run into the future")
        self.traffic = traffic
        self.speed = speed
        self.start_ms = start_ms
        """Event time of the traffic's start; where not given, set by `run`."""
        self.published_at: dict[tuple[str, int], float] = {}
        """(camera id, event time in ms since the epoch) -> `time.monotonic()` when it was first published."""
        self._evidence = evidence
        self._on_progress = on_progress or (lambda progress: None)
        self._confirm_timeout_s = confirm_timeout_s
        self._linger_s = linger_s if evidence else 0.0
        self._publisher = Publisher(url, repeat_seconds=repeat_seconds)
        self._stop = threading.Event()
        self._at_ms = self._lag_s = self._max_lag_s = 0.0

    def run(self) -> Progress:
        """Publishes everything and waits until the broker has confirmed it; from another thread, `stop` ends it early.

        Raises:
            ConnectionError: there is no broker at the start; a broker that goes away later is waited for.
            TimeoutError: the broker did not confirm everything at the end.
        """
        publisher = self._publisher
        publisher.connect()
        try:
            if self._evidence:
                self._evidence.answer_through(publisher)
            if self.start_ms is None:
                ahead_ms = (self.traffic.duration_ms or 0.0) * (1 - 1 / self.speed)
                self.start_ms = round(time.time() * 1000 - ahead_ms)
            started = reported = monotonic()
            for message in self.traffic.messages(self.start_ms):
                due = started + message.due_ms / 1000 / self.speed
                publisher.work(max(due - monotonic(), 0.0))
                if self._stop.is_set():
                    break
                self._publish(message, due)
                if monotonic() - reported >= _PROGRESS_EVERY_S:
                    reported = monotonic()
                    self._on_progress(self._progress())
            publisher.flush(self._confirm_timeout_s)
            progress = self._progress()
            self._on_progress(progress)
            publisher.work(self._linger_s)
            return progress
        finally:
            publisher.close()

    def stop(self) -> None:
        """Ends `run` soon, without waiting for confirmations. May be called from any thread."""
        self._stop.set()
        self._publisher.stop()

    def _publish(self, message: Message, due: float) -> None:
        at = self._publisher.publish(message.topic, message.payload)
        self._at_ms = message.due_ms
        self._lag_s = max(at - due, 0.0)
        self._max_lag_s = max(self._max_lag_s, self._lag_s)
        if message.camera:
            self.published_at.setdefault((message.camera, message.timestamp_ms), at)
            if self._evidence:
                self._evidence.seen(message)

    def _progress(self) -> Progress:
        publisher = self._publisher
        return Progress(
            at_ms=self._at_ms,
            duration_ms=self.traffic.duration_ms,
            published=publisher.published,
            confirmed=publisher.published - publisher.unconfirmed,
            repeated=publisher.repeated,
            unheard=publisher.unheard,
            lag_s=self._lag_s,
            max_lag_s=self._max_lag_s,
            connected=publisher.connected,
        )
