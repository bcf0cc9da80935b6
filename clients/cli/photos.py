"""Photos that are small enough to be sent together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

_MOST_BYTES: Final = 7 << 20
"""Of all photos of a person: a message may have 8 MiB."""
_SIDES: Final = (2400, 1800, 1200)
_QUALITY: Final = 92


def fitted(photos: Sequence[bytes]) -> list[bytes]:
    """The photos; where they are too large together, the large ones re-encoded, smaller and smaller until they fit.

    One that is no image stays as it is: the server says so.
    """
    fitting = list(photos)
    for side in _SIDES:
        if sum(map(len, fitting)) <= _MOST_BYTES:
            break
        share = _MOST_BYTES // len(fitting)
        fitting = [photo if len(photo) <= share else _shrunk(photo, side) for photo in fitting]
    return fitting


def _shrunk(photo: bytes, side: int) -> bytes:
    try:
        pixels = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        return photo
    scale = min(1.0, side / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    done, file = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return file.tobytes() if done else photo
