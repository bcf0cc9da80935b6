"""Pictures of references: the face with its surroundings, cut from the photo it was enrolled from."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2, poi_pb2

_SIDE: Final = 2.0
"""Side of the picture in sides of the face: hair, ears and shoulders for people, and enough for the detector to find
the face again."""
_QUALITIES: Final = (95, 85, 70)
"""At 95, re-embedding 16 faces of 52 to 73 px gave cosines of .977 and more to the embedding of the photo, at 85 of
.934; the lower ones are for pictures that would be too large."""
_AT_ONCE: Final = 2
"""A photo of 50 megapixels takes 150 MB while it is open."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How large a picture may be."""

    most_px: int
    """Of its longer side; 0 keeps no pictures."""
    most_bytes: int
    """Of the JPEG file."""


class Cutter:
    """Cuts pictures out of photos, a few at once, in threads."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def cut(self, photo: bytes, face: common_pb2.BoundingBox) -> poi_pb2.ReferenceImage | None:
        """The picture of a face, without a name; `face` is in pixels of the upright photo.

        None where no pictures are kept, or none can be made.
        """
        if not self._framing.most_px:
            return None
        async with self._free:
            return await asyncio.to_thread(cut, photo, face, self._framing)


def cut(photo: bytes, face: common_pb2.BoundingBox, framing: Framing) -> poi_pb2.ReferenceImage | None:
    """The picture of a face; None when the photo cannot be decoded. The photo's own metadata are not in it."""
    if not math.isfinite(face.x + face.y + face.width + face.height):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    reach = _SIDE * max(face.width, face.height) / 2
    x, y = face.x + face.width / 2, face.y + face.height / 2
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    right, bottom = min(width, round(x + reach)), min(height, round(y + reach))
    if right - left < 1 or bottom - top < 1:
        return None
    crop = pixels[top:bottom, left:right].astype(np.uint8, copy=False)
    scale = min(1.0, framing.most_px / max(crop.shape[:2]))
    while True:
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        small = crop if scale == 1.0 else cv2.resize(crop, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        file = _encoded(small, framing.most_bytes)
        if file is not None or max(size) < 2:
            break
        scale /= 2
    if file is None:
        return None
    across, down = size[0] / (right - left), size[1] / (bottom - top)
    box = common_pb2.BoundingBox(
        x=(face.x - left) * across, y=(face.y - top) * down, width=face.width * across, height=face.height * down
    )
    return poi_pb2.ReferenceImage(image=file, face_box=box)


def _encoded(pixels: NDArray[np.uint8], most_bytes: int) -> bytes | None:
    """A JPEG of the best quality that fits; None when none does."""
    for quality in _QUALITIES:
        done, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(file) <= most_bytes:
            return file.tobytes()
    return None
