"""Draws the picture of an alert from JPEGs that it does not trust. The same input gives the same bytes."""

from __future__ import annotations

import io
import math
from typing import Final, NamedTuple

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from poi.v1 import common_pb2

Pixels = NDArray[np.uint8]
"""(height, width, 3), BGR."""

_MAX_PIXELS: Final = 12_000_000
"""Larger frames are decoded at a half, a quarter or an eighth: 36 MB of memory at most."""
_REDUCED: Final = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_HEIGHT: Final = 480
_BAR: Final = 28
_MAX_WIDTH: Final = 1200  # of a panel: panoramas
_MARGIN: Final = 0.4  # of the face's size, on each side
_BACKGROUND: Final = (32, 32, 32)
_WHITE, _PERSON, _FACE = (255, 255, 255), (80, 200, 80), (60, 60, 230)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_QUALITY: Final = 90


class Undecodable(Exception):
    """The bytes are no JPEG that can be shown; the text says why, without showing any of it."""


class Subject(NamedTuple):
    """An image, and where in it the person and the face are, in its pixels; None where that is not known."""

    image: bytes
    caption: str
    """ASCII; no names."""
    person: common_pb2.BoundingBox | None = None
    face: common_pb2.BoundingBox | None = None


def compose(frame: Subject, reference: Subject | None) -> bytes:
    """A JPEG, 480 px high: the face in the frame (where known), the frame with boxes, the reference (where given).

    Raises Undecodable for the frame; a reference that cannot be decoded is left out.
    """
    shown, scale = _decode(frame.image)
    panels = []
    face = _place(frame.face, shown, scale)
    if face is not None:
        panels.append(_panel(_crop(shown, face), "face"))
    shown = shown.copy()
    for box, colour in ((_place(frame.person, shown, scale), _PERSON), (face, _FACE)):
        if box is not None:
            thickness = max(2, round(shown.shape[0] / 300))
            cv2.rectangle(shown, (box[0], box[1]), (box[2], box[3]), colour, thickness)
    panels.append(_panel(shown, frame.caption))
    if reference is not None:
        try:
            other, scale = _decode(reference.image)
        except Undecodable:
            pass
        else:
            place = _place(reference.face, other, scale)
            panels.append(_panel(other if place is None else _crop(other, place), reference.caption))
    return _encode(np.hstack(panels))


def crop_face(image: bytes, box: common_pb2.BoundingBox) -> bytes | None:
    """The face with some of its surroundings as a JPEG; None where the box is not in the image. Raises Undecodable."""
    pixels, scale = _decode(image)
    place = _place(box, pixels, scale)
    return None if place is None else _encode(_crop(pixels, place))


def _decode(data: bytes) -> tuple[Pixels, float]:
    """The pixels, and how many of them make one of the file's. The header is read first, so nothing unpacks too far."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
    except Exception as error:  # Pillow's parsers answer a hostile header with whatever their first failing line raises
        raise Undecodable(f"no JPEG header ({type(error).__name__})") from None
    step = next((one for one in _REDUCED if width * height <= _MAX_PIXELS * one * one), None)
    if step is None:
        raise Undecodable(f"{width} x {height} pixels are too many")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[step])
    except cv2.error:
        pixels = None
    if pixels is None:
        raise Undecodable("broken or truncated")
    return pixels.astype(np.uint8, copy=False), 1 / step


def _place(box: common_pb2.BoundingBox | None, pixels: Pixels, scale: float) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what of the box is in the image; None for nothing, or numbers that are none."""
    if box is None or not math.isfinite(box.x + box.y + box.width + box.height):
        return None
    height, width = pixels.shape[:2]
    left, right = (round(min(max(x * scale, 0), width)) for x in (box.x, box.x + box.width))
    top, bottom = (round(min(max(y * scale, 0), height)) for y in (box.y, box.y + box.height))
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else None


def _crop(pixels: Pixels, place: tuple[int, int, int, int]) -> Pixels:
    left, top, right, bottom = place
    margin = round(max(right - left, bottom - top) * _MARGIN)
    return pixels[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]


def _panel(pixels: Pixels, caption: str) -> Pixels:
    height, width = pixels.shape[:2]
    room = _HEIGHT - _BAR
    scale = min(room / height, _MAX_WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panel = np.full((_HEIGHT, size[0] + 4, 3), _BACKGROUND, np.uint8)
    panel[_BAR : _BAR + size[1], 2 : 2 + size[0]] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    (wide, _), _ = cv2.getTextSize(caption, _FONT, _FONT_SCALE, 1)
    text_scale = _FONT_SCALE * min(1.0, (size[0] - 8) / max(wide, 1))
    if text_scale > 0.2:
        cv2.putText(panel, caption, (6, _BAR - 9), _FONT, text_scale, _WHITE, 1, cv2.LINE_AA)
    return panel


def _encode(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise Undecodable("the picture could not be encoded")
    return data.tobytes()
