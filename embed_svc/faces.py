"""The pipeline: pixels -> boxes -> landmarks -> crops -> embeddings and quality.

`FaceFinder.find` blocks and is meant for worker threads. It holds the GIL only for the bookkeeping between calls into
OpenCV and OpenVINO, and everything of one image that can run at the same time does.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from embed_svc.alignment import Box, Points, aligned_crop, plain_crop
from embed_svc.images import Pixels
from embed_svc.quality import Quality, assess
from mesh import embeddings, errors

Vector = embeddings.Vector


class Alignment(Enum):
    """How the crop of an embedding is made."""

    ALIGNED = "aligned"
    """Five landmarks moved to the model's reference points."""
    UNALIGNED = "unaligned"
    """The detector's box resized as it is."""
    MEAN = "mean"
    """The normalised mean of those two embeddings: for references, which meet probes of either kind."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face of an image. Positions are in pixels of the upright image, the origin at its top left corner."""

    box: Box
    """x, y, width, height; inside the image."""
    landmarks: Points
    quality: Quality
    """With the detector's confidence."""
    embeddings: tuple[Vector, ...]
    """float32 (256,), L2-normalised, one for each alignment asked for, in that order."""


class Network(Protocol):
    """What the pipeline needs of `runtime.Network`."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input image."""

    def submit(self, image: Pixels) -> Future[NDArray[np.float32]]:
        """Starts on an image of that size; the future has the network's output."""


@dataclass(frozen=True, slots=True)
class FaceFinder:
    """The three networks as one function from an image to its faces. Any number of threads may use it."""

    detector: Network
    landmarker: Network
    embedder: Network

    def find(
        self,
        image: Pixels,
        *,
        min_confidence: float = 0.5,
        max_faces: int = 64,
        alignments: Sequence[Alignment] = (Alignment.ALIGNED,),
    ) -> list[Face]:
        """The faces of at least `min_confidence`, most confident first, at most `max_faces`; none is an empty list."""
        found = self._detect(image, min_confidence)[:max_faces]
        boxes = [box for box, _ in found]
        marked = [self.landmarker.submit(plain_crop(image, box, self.landmarker.size)) for box in boxes]
        landmarks = [_in_image(future.result(), box) for future, box in zip(marked, boxes, strict=True)]
        crops = [aligned_crop(image, points, self.embedder.size) for points in landmarks]
        # The embedder starts on every face before the first result is waited for; quality is assessed meanwhile.
        want_aligned = any(kind is not Alignment.UNALIGNED for kind in alignments)
        want_plain = any(kind is not Alignment.ALIGNED for kind in alignments)
        aligned = [self.embedder.submit(crop) for crop in crops] if want_aligned else []
        plain = (
            [self.embedder.submit(plain_crop(image, box, self.embedder.size)) for box in boxes] if want_plain else []
        )
        qualities = [
            assess(crop, points, box[2], confidence)
            for crop, points, (box, confidence) in zip(crops, landmarks, found, strict=True)
        ]
        vectors = {
            Alignment.ALIGNED: [_normalised(future.result()) for future in aligned],
            Alignment.UNALIGNED: [_normalised(future.result()) for future in plain],
        }
        if Alignment.MEAN in alignments:
            pairs = zip(vectors[Alignment.ALIGNED], vectors[Alignment.UNALIGNED], strict=True)
            vectors[Alignment.MEAN] = [_normalised(one + other) for one, other in pairs]
        return [
            Face(box, landmarks[i], qualities[i], tuple(vectors[kind][i] for kind in alignments))
            for i, box in enumerate(boxes)
        ]

    def _detect(self, image: Pixels, min_confidence: float) -> list[tuple[Box, float]]:
        small = cv2.resize(image, self.detector.size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        rows = self.detector.submit(small).result().reshape(-1, 7)
        height, width = image.shape[:2]
        # A row is image, label, confidence and corners as fractions of the image; the first image < 0 ends the list.
        ends = np.flatnonzero(rows[:, 0] < 0)
        found: list[tuple[Box, float]] = []
        for _, _, confidence, x0, y0, x1, y1 in rows[: ends[0] if ends.size else None].tolist():
            left, right = (min(max(x, 0.0), 1.0) * width for x in (x0, x1))
            top, bottom = (min(max(y, 0.0), 1.0) * height for y in (y0, y1))
            if confidence >= min_confidence and right - left >= 1 and bottom - top >= 1:
                found.append(((left, top, right - left, bottom - top), min(confidence, 1.0)))
        return sorted(found, key=lambda face: face[1], reverse=True)


def single(faces: Sequence[Face]) -> Face:
    """The face, where exactly one is wanted. Raises FailedPrecondition with the reason NO_FACE or MULTIPLE_FACES."""
    if not faces:
        raise errors.FailedPrecondition("the image shows no face", reason="NO_FACE")
    if len(faces) > 1:
        raise errors.FailedPrecondition(
            f"the image shows {len(faces)} faces where one is wanted",
            reason="MULTIPLE_FACES",
            metadata={"faces": str(len(faces))},
        )
    return faces[0]


def _in_image(output: NDArray[np.float32], box: Box) -> Points:
    """Landmarks as fractions of the box, x0 y0 ... x4 y4, to pixels of the image."""
    x, y, width, height = box
    return output.reshape(5, 2) * np.array((width, height), np.float32) + np.array((x, y), np.float32)


def _normalised(vector: NDArray[np.float32]) -> Vector:
    return embeddings.normalise(vector.reshape(-1))
