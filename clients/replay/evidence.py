"""Camera frames on request, as cameras give them: `getimage` on the command topic, a JPEG on the image topic."""

import base64
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import orjson

from clients.replay.publisher import Publisher
from clients.replay.traffic import Message, iso

_COMMANDS = "scenescape/cmd/camera/"
_IMAGES = "scenescape/image/camera/"
_WIDTH, _HEIGHT = 960, 540  # the pixels that the recording's boxes count in
_JPEG_QUALITY = 85
_PASS_GAP_MS = 2000.0

RECORDED_CLIPS: Mapping[str, str] = {
    "Camera_01": "head-pose-face-detection-female-and-male.gif",
    "Camera_02": "face-demographics-walking-and-pause.gif",
}
"""Camera of the recorded store -> the clip (Intel sample-videos, CC-BY 4.0) that it shows, from the first message on
and again after each gap."""

Image = npt.NDArray[np.uint8]


class Clip:
    """A short clip as JPEGs, by time. Frames are scaled to 960 x 540."""

    def __init__(self, path: Path) -> None:
        self._times_ms: list[float] = []
        self._jpegs: list[bytes] = []
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                image = cv2.resize(frame.to_ndarray(format="bgr24"), (_WIDTH, _HEIGHT))
                self._times_ms.append((frame.time or 0.0) * 1000)
                self._jpegs.append(_jpeg(image.astype(np.uint8, copy=False)))
        if not self._jpegs:
            raise ValueError(f"{path} has no frames")

    def at(self, time_ms: float) -> bytes:
        """The JPEG shown at this time; the last one after the end."""
        return self._jpegs[max(bisect_right(self._times_ms, time_ms + 1.0) - 1, 0)]


class Evidence:
    """Answers `getimage` for cameras of a replay with the frame that belongs to the camera's last message.

    A camera with a clip shows the clip; another one a drawing of the boxes in its last message.

    Args:
        clips: camera id -> clip.
    """

    def __init__(self, clips: Mapping[str, Clip] | None = None) -> None:
        self._clips = dict(clips or {})
        self._last: dict[str, Message] = {}
        self._pass_start_ms: dict[str, float] = {}
        self._publisher: Publisher | None = None
        self.answered = 0
        """Frames published."""

    @classmethod
    def of_recorded_store(cls, media_dir: Path) -> "Evidence":
        """Evidence with those of `RECORDED_CLIPS` that exist in a directory."""
        paths = {camera: media_dir / name for camera, name in RECORDED_CLIPS.items()}
        return cls({camera: Clip(path) for camera, path in paths.items() if path.exists()})

    def seen(self, message: Message) -> None:
        """Notes a camera's message that has just been published."""
        before = self._last.get(message.camera)
        if before is None or message.due_ms - before.due_ms > _PASS_GAP_MS:
            self._pass_start_ms[message.camera] = message.due_ms
        self._last[message.camera] = message

    def answer_through(self, publisher: Publisher) -> None:
        """Listens for commands and answers through this connection, within its `work`."""
        self._publisher = publisher
        publisher.subscribe(_COMMANDS + "+", self._answer)

    def frame(self, camera: str) -> bytes | None:
        """The JPEG of the camera's last message; None for a camera that has sent nothing."""
        message = self._last.get(camera)
        if message is None:
            return None
        clip = self._clips.get(camera)
        return clip.at(message.due_ms - self._pass_start_ms[camera]) if clip else _drawing(message)

    def _answer(self, topic: str, command: bytes) -> None:
        camera = topic.removeprefix(_COMMANDS)
        if command != b"getimage" or self._publisher is None:
            return
        jpeg = self.frame(camera)
        if jpeg is None:
            return
        answer = {"timestamp": iso(self._last[camera].timestamp_ms), "image": base64.b64encode(jpeg).decode()}
        self._publisher.publish_once(_IMAGES + camera, orjson.dumps(answer))
        self.answered += 1


def _jpeg(image: Image) -> bytes:
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise RuntimeError("the frame could not be encoded as JPEG")
    return data.tobytes()


def _drawing(message: Message) -> bytes:
    image = np.full((_HEIGHT, _WIDTH, 3), 96, np.uint8)
    objects = orjson.loads(message.payload).get("objects")
    for person in _objects(objects, "person"):
        _rectangle(image, person.get("bounding_box_px"), (60, 160, 60))
        for face in _objects(person.get("sub_objects"), "face"):
            _rectangle(image, face.get("bounding_box_px"), (60, 60, 200))
    for face in _objects(objects, "face"):
        _rectangle(image, face.get("bounding_box_px"), (60, 60, 200))
    caption = f"{message.camera} {iso(message.timestamp_ms)}"
    cv2.putText(image, caption, (16, 32), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
    return _jpeg(image)


def _objects(groups: Any, category: str) -> Iterator[dict[str, Any]]:
    """Those of a category, in any of the forms that cameras send; what is none is left out."""
    flat = isinstance(groups, list)
    items = groups if flat else groups.get(category) if isinstance(groups, dict) else None
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and (not flat or item.get("category", item.get("type", "person")) == category):
            yield item


def _rectangle(image: Image, box: Any, colour: tuple[int, int, int]) -> None:
    """Of `[x, y, width, height]` or an object with those keys; nothing of anything else."""
    sides = (("x",), ("y",), ("width", "w"), ("height", "h"))
    if isinstance(box, dict):
        box = [next((box[key] for key in keys if key in box), None) for keys in sides]
    if (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, int | float) and abs(side) < 1e6 for side in box)
    ):
        x, y, width, height = map(round, box)
        cv2.rectangle(image, (x, y), (x + width, y + height), colour, 2)
