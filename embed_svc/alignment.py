"""Face crops as the embedding network wants them: aligned by landmarks, or plain as camera pipelines cut them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from embed_svc.images import Pixels

REFERENCE = np.array(
    [
        (0.31556875, 0.46157411),
        (0.68262292, 0.46157411),
        (0.5002625, 0.64050536),
        (0.34947188, 0.82469196),
        (0.65343646, 0.82469196),
    ],
    np.float32,
)
"""Where the five landmarks belong, as fractions of the crop: the model card of face-reidentification-retail-0095."""

Points = NDArray[np.float32]
"""Five landmarks, float32 (5, 2), x and y in pixels: eyes (left and right in the image), nose, corners of the mouth."""


Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""


def similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """The rotation, uniform scale and shift that moves `source` closest to `target` in least squares: (2, 3).

    As complex numbers the best factor is <source, target> / <source, source> about the centroids: the planar case of
    Umeyama (1991) with reflection excluded. Source points that are all the same give a shift alone.
    """
    p, q = (points.astype(np.float64) @ (1, 1j) for points in (source, target))
    p0, q0 = p.mean(), q.mean()
    spread = np.vdot(p - p0, p - p0).real
    factor = np.vdot(p - p0, q - q0) / spread if spread > 0 else 1.0 + 0j
    shift = q0 - factor * p0
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def aligned_crop(image: Pixels, landmarks: Points, size: tuple[int, int]) -> Pixels:
    """The face moved to the reference points; `size` is (width, height) of the crop, uint8 (height, width, 3)."""
    matrix = similarity(landmarks, REFERENCE * np.array(size, np.float32))
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def plain_crop(image: Pixels, box: Box, size: tuple[int, int]) -> Pixels:
    """A box that lies inside the image, resized without regard to its aspect, as DL Streamer does."""
    x, y, width, height = box
    left, top = int(x), int(y)
    right, bottom = max(left + 1, round(x + width)), max(top + 1, round(y + height))
    return cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
