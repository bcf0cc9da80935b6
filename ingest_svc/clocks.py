"""Cameras whose clocks are wrong: their detections get the time of their arrival, so that they alert all the same.

History refuses what is too far in the future or older than it keeps. What was refused and cannot have waited for us in
the broker either shows that its camera's clock is wrong: the difference to its arrival is measured, and all that the
camera sends is moved by it until its clock is right again. The ids of detections are made of the camera's own time, so
that a message that comes again is still the same to history, wherever it is moved to.
A clock that is wrong by less is left alone: it cannot be told from messages that waited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import prometheus_client
import structlog
from poi.v1 import common_pb2

from ingest_svc.rejections import Problem

_log = structlog.get_logger(__name__)

_CORRECTED: Final = prometheus_client.Counter(
    "poi_ingest_corrected_detections", "Detections that got another time as their camera's clock is wrong."
)
_TOLERANCE_MS: Final = 60_000
"""A clock that is off by less is right; a difference that changes by more is measured again."""
_REMIND_MS: Final = 600_000
_MOST_CAMERAS: Final = 10_000
_NEVER_MS: Final = 1_577_836_800_000
"""2020: what is older is no frame that waited, it is a clock that was never set."""

Clock = Callable[[], float]


@dataclass(slots=True)
class _Skew:
    offset_ms: int
    """What to add to the camera's time. Only what comes faster than all before makes it smaller, so that a delay on the
    way does not reorder frames."""
    told_ms: int


class CameraClocks:
    """The cameras of a store whose clocks are wrong."""

    def __init__(
        self, on_problem: Callable[[str, Problem], None], *, most_waiting_seconds: float, clock: Clock = time.time
    ) -> None:
        """`on_problem(camera, ...)` is told of each, and reminded every ten minutes. `clock`: epoch seconds.

        Messages wait in the broker for `most_waiting_seconds` at most.
        """
        self._on_problem = on_problem
        self._most_waiting_ms = most_waiting_seconds * 1000
        self._clock = clock
        self._skews: dict[str, _Skew] = {}

    def __len__(self) -> int:
        return len(self._skews)

    def correct(self, camera: str, time_ms: int) -> int:
        """When that was by our clock: the same where the camera's clock is right, as far as is known."""
        skew = self._skews.get(camera)
        if skew is None:
            return time_ms
        now_ms = round(self._clock() * 1000)
        if abs(now_ms - time_ms) <= _TOLERANCE_MS:
            del self._skews[camera]
            _log.info("camera_clock_right", camera=camera)
            return time_ms
        corrected = time_ms + skew.offset_ms
        if not now_ms - _TOLERANCE_MS <= corrected <= now_ms:
            skew.offset_ms = now_ms - time_ms
            corrected = now_ms
        if now_ms - skew.told_ms >= _REMIND_MS:
            self._tell(camera, skew, now_ms)
        return corrected

    def correct_all(self, camera: str, detections: Iterable[common_pb2.Detection]) -> None:
        """Moves the times of a camera's detections; nothing to do for almost all cameras."""
        if camera in self._skews:
            for detection in detections:
                _move(detection, self.correct(camera, detection.detect_time.ToMilliseconds()))

    def refused(self, detection: common_pb2.Detection) -> bool:
        """History refused the time of this detection: moves it to its arrival, unless it may have waited so long."""
        camera, time_ms = detection.camera, detection.detect_time.ToMilliseconds()
        now_ms = round(self._clock() * 1000)
        if _NEVER_MS <= time_ms <= now_ms and now_ms - time_ms <= self._most_waiting_ms:
            return False
        if camera not in self._skews:
            if len(self._skews) >= _MOST_CAMERAS:  # topics come from the street: memory stays bounded
                self._skews.clear()
            self._skews[camera] = skew = _Skew(now_ms - time_ms, now_ms)
            self._tell(camera, skew, now_ms)
        _move(detection, self.correct(camera, time_ms))
        return True

    def _tell(self, camera: str, skew: _Skew, now_ms: int) -> None:
        skew.told_ms = now_ms
        seconds = abs(skew.offset_ms) / 1000
        wrong = f"{seconds:.0f} s {'behind' if skew.offset_ms > 0 else 'ahead'}"
        _log.warning("camera_clock_wrong", camera=camera, offset_seconds=-skew.offset_ms / 1000)
        self._on_problem(
            camera,
            Problem(
                "CLOCK_SKEW", "timestamp", f"the camera's clock is {wrong}: its frames get the time they arrive at"
            ),
        )


def _move(detection: common_pb2.Detection, time_ms: int) -> None:
    _CORRECTED.inc()
    detection.detect_time.FromMilliseconds(time_ms)
