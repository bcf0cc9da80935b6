"""Who a scene controller's people are to cameras: the boxes of both agree in the same frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median

from poi.v1 import common_pb2

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

MIN_IOU = 0.3
_FRAMES = 32
_MAX_CAMERAS = 10_000


class CameraBoxes:
    """The latest frames' boxes of the cameras that scene messages have boxes of.

    Only in this process, and only of the messages that came this way: with several replicas, or just after a start, a
    scene message may find no frame. Then it says less, never something wrong; the visit's next one says it.
    """

    def __init__(self) -> None:
        self._frames: dict[str, deque[tuple[int, dict[str, Box]]]] = {}

    def seen(self, camera_id: str, time_ms: int, detections: Iterable[common_pb2.Detection]) -> None:
        """Take in a frame of a camera. Costs a look-up where no scene message has boxes of it."""
        frames = self._frames.get(camera_id)
        if frames is not None:
            boxes = ((one.object_id, one.person_box) for one in detections if one.HasField("person_box"))
            frames.append((time_ms, {id: (box.x, box.y, box.width, box.height) for id, box in boxes}))

    def join(self, camera_id: str, time_ms: int, people: Mapping[str, Box]) -> dict[str, str]:
        """The camera's object id of each of the scene's people that has one, one to one.

        In the frame nearest to the time, if it is within half a frame interval: pairs of boxes with an intersection
        over union of at least 0.3, the best first.
        """
        frames = self._frames.get(camera_id)
        if frames is None:
            if len(self._frames) >= _MAX_CAMERAS:  # topics come from the street: memory stays bounded
                self._frames.clear()
            self._frames[camera_id] = deque(maxlen=_FRAMES)
            return {}
        if not frames:
            return {}
        time, boxes = min(frames, key=lambda frame: abs(frame[0] - time_ms))
        if abs(time - time_ms) > _interval([time for time, _ in frames]) / 2:
            return {}
        pairs = sorted(
            (-overlap, person, object_id)
            for person, ours in people.items()
            for object_id, theirs in boxes.items()
            if (overlap := iou(ours, theirs)) >= MIN_IOU
        )
        joined: dict[str, str] = {}
        taken: set[str] = set()
        for _, person, object_id in pairs:
            if person not in joined and object_id not in taken:
                joined[person] = object_id
                taken.add(object_id)
        return joined


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def _interval(times: list[int]) -> float:
    """Between two frames, in ms; 0 where only one is known."""
    times = sorted(set(times))
    return median(later - sooner for sooner, later in pairwise(times)) if len(times) > 1 else 0.0
