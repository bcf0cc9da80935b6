"""Photos of the woman and the man of the sample clips."""

import itertools
from pathlib import Path

import av
import cv2
import numpy as np

WOMAN, MAN, BOTH = (f"head-pose-face-detection-{who}.gif" for who in ("female", "male", "female-and-male"))
FRONTAL, TURNED, ASIDE = 9, 18, 2
"""Frames of the woman: by the estimate 9, 13 and -57 degrees from frontal."""


def photo(shared: Path, clip: str, frame: int) -> bytes:
    """A frame of a clip as a JPEG file."""
    with av.open(str(shared / "media" / clip)) as video:
        image = next(itertools.islice(video.decode(video=0), frame, None)).to_ndarray(format="bgr24")
    return bytes(cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def blank() -> bytes:
    """A photo of nobody."""
    return bytes(cv2.imencode(".png", np.full((240, 320, 3), 128, np.uint8))[1])
