"""How far the embedding of a face can be trusted, from measured properties of its image.

The overall score is the product of what each property is worth, so one that ruins the embedding ruins the score:

    score = width x sharpness x pose x detector

- width: the recall that faces of this width keep (true accept rate at cosine 0.45, measured on LFW by shrinking faces:
  18 px .737, 24 px .880, 40 px .957, full size .962), as a fraction of the recall at full size; straight lines between.
- sharpness: see `sharpness`; by construction about the cosine that a blurred face keeps with its sharp self.
- pose: cos(yaw) cos(pitch) cos(roll), 0 beyond 90 degrees. Alignment undoes roll, but embeddings of unaligned crops
  lose most of their likeness by 50 degrees of it.
- detector: 0 at a confidence of 0.5, 1 from 0.9. The detector fires on the backs of heads, almost always under 0.9.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from embed_svc.alignment import REFERENCE, Points
from embed_svc.images import Pixels

_WIDTHS = (0.0, 18.0, 24.0, 40.0, 80.0)
_WIDTH_WORTH = (0.0, 0.766, 0.915, 0.995, 1.0)
_CONFIDENCES = (0.5, 0.9)

# What rounding to whole grey values adds to the variance: 1/12, times the sum of the kernel's squares (4 x 1 + 4 x 4).
_ROUNDING = 20 / 12
# Half of the likeness is gone here: fitted to 31 faces blurred by Gaussians of 1 to 8 px (cosines of .99 down to .14).
_HALF_SHARP = 0.8
# Rows and columns of the aligned crop, as fractions, that are face and not background.
_INNER = (0.3, 0.95, 0.2, 0.8)

# The face in three dimensions, in distances between the eyes: the model card's frontal positions, and depths of a
# generic head (eyes and mouth 27 and 25 mm behind the tip of the nose, eyes 63 mm apart). x right, y down, z away.
_HEAD = np.column_stack([REFERENCE / (REFERENCE[1, 0] - REFERENCE[0, 0]), (0.43, 0.43, 0.0, 0.40, 0.40)]).astype(
    np.float64
)
_HEAD -= _HEAD.mean(axis=0)
# Nobody says how far away the camera is. From 4 to 30 face widths as focal length the angles move by 3 degrees at most.
_FOCAL_FACES = 10.0


@dataclass(frozen=True, slots=True)
class Quality:
    """Each property with its value, and the overall score."""

    score: float
    """0 (useless) to 1 (ideal); see the module for the formula."""
    face_width: float
    """Of the detector's box, in pixels."""
    sharpness: float
    """0 (blurred) to 1 (sharp)."""
    yaw: float
    """Degrees that the face is turned to the right of the image; 0 is frontal."""
    pitch: float
    """Degrees that the face looks up; 0 is level."""
    roll: float
    """Degrees that the face leans clockwise in the image; 0 is upright."""
    confidence: float
    """The detector's, 0 to 1."""


def assess(aligned: Pixels, landmarks: Points, face_width: float, confidence: float) -> Quality:
    """The quality of a face from its aligned crop, landmarks and box width in pixels, and detector confidence."""
    sharp = sharpness(aligned)
    yaw, pitch, roll = pose(landmarks, face_width)
    facing = math.prod(max(0.0, math.cos(math.radians(angle))) for angle in (yaw, pitch, roll))
    score = (
        float(np.interp(face_width, _WIDTHS, _WIDTH_WORTH))
        * sharp
        * facing
        * float(np.interp(confidence, _CONFIDENCES, (0.0, 1.0)))
    )
    return Quality(score, face_width, sharp, yaw, pitch, roll, confidence)


def sharpness(aligned: Pixels) -> float:
    """0 (blurred) to 1 (sharp) from the variance of the Laplacian (Pech-Pacheco et al., 2000) inside an aligned crop.

    v^2 / (v^2 + 0.8^2), where v is the variance in squared grey values less what rounding adds to it. Made for crops of
    128 x 128, so that it does not depend on the face's size in the image except for the detail that is really there.
    """
    grey = cv2.cvtColor(aligned, cv2.COLOR_BGR2GRAY)
    size = len(grey)
    top, bottom, left, right = (round(size * part) for part in _INNER)
    variance = float(cv2.Laplacian(grey[top:bottom, left:right], cv2.CV_32F).var())
    square = max(0.0, variance - _ROUNDING) ** 2
    return square / (square + _HALF_SHARP**2)


def pose(landmarks: Points, face_width: float) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees (signs as in `Quality`), estimated by fitting a generic head to five landmarks.

    Good to about 10 degrees; a profile is underestimated. Landmarks that fall together have no pose: (90, 90, 90).
    """
    focal = _FOCAL_FACES * max(face_width, 1.0)
    camera = np.diag((focal, focal, 1.0))
    points = landmarks.astype(np.float64) - landmarks.mean(axis=0)
    try:
        found, vector, _ = cv2.solvePnP(_HEAD, points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:
        found = False
    if not found:
        return 90.0, 90.0, 90.0
    rotation = cv2.Rodrigues(vector)[0]
    # Where the nose points, and where the line from eye to eye does.
    x, y, z = -rotation[:, 2]
    yaw = math.atan2(x, -z)
    pitch = math.atan2(-y, math.hypot(x, z))
    roll = math.atan2(rotation[1, 0], rotation[0, 0])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)
