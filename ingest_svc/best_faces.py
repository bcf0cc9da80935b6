"""When an appearance shows a clearly better face than before, so that a frame of it is worth asking for."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from math import sqrt
from typing import Final

from poi.v1 import common_pb2

_CLEARLY_BETTER: Final = 1.25
"""From 20 to 500 pixels that is 15 frames at most."""
_REMEMBERED: Final = 65_536


class BestFaces:
    """Knows for each appearance how good the face was when a frame was asked for last."""

    def __init__(self, every_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Of one appearance a better face counts every so many seconds at most."""
        self._every = every_seconds
        self._clock = clock
        self._asked: OrderedDict[str, tuple[float, float]] = OrderedDict()  # appearance -> (goodness, when)

    def began(self, appearance: str, detection: common_pb2.Detection) -> None:
        """A frame is asked for because the appearance began with this detection."""
        self._note(appearance, _goodness(detection), self._clock())

    def better(self, appearance: str, detection: common_pb2.Detection) -> bool:
        """Whether a frame is worth asking for because of this detection of the appearance; then it counts as asked."""
        goodness = _goodness(detection)
        known, asked = self._asked.get(appearance, (0.0, 0.0))
        if goodness <= known * _CLEARLY_BETTER:
            return False
        now = self._clock()
        if appearance in self._asked and now - asked < self._every:
            return False
        self._note(appearance, goodness, now)
        return True

    def _note(self, appearance: str, goodness: float, now: float) -> None:
        self._asked[appearance] = (goodness, now)
        self._asked.move_to_end(appearance)
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)


def _goodness(detection: common_pb2.Detection) -> float:
    """The side of the face in pixels, times the detector's confidence in it; 0 without a face."""
    box = detection.face_box
    area = box.width * box.height
    return detection.face_confidence * sqrt(area) if area > 0.0 else 0.0
