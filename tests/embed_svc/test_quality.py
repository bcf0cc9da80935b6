"""Quality: each property moves the way it says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from embed_svc.alignment import REFERENCE
from embed_svc.quality import _HEAD, Quality, assess, pose, sharpness


def projected(yaw: float, pitch: float, roll: float) -> NDArray[np.float32]:
    """Landmarks of a distant head turned to the right, up and clockwise by degrees."""
    y, p, r = np.radians((yaw, pitch, roll))
    turn = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray((lean @ turn @ nod @ _HEAD.T).T[:, :2] * 40 + 200, np.float32)


@pytest.mark.parametrize("yaw", [-50, -20, 0, 35])
@pytest.mark.parametrize("pitch", [-25, 0, 20])
@pytest.mark.parametrize("roll", [0, 0.001])
def test_pose_of_a_known_head(yaw: float, pitch: float, roll: float) -> None:
    found_yaw, found_pitch, _ = pose(projected(yaw, pitch, roll), 100)
    assert found_yaw == pytest.approx(yaw, abs=1.5)
    assert found_pitch == pytest.approx(pitch, abs=1.5)


@pytest.mark.parametrize("roll", [-60, -10, 0, 45])
def test_roll_is_positive_clockwise(roll: float) -> None:
    assert pose(projected(0, 0, roll), 100)[2] == pytest.approx(roll, abs=1)


def test_landmarks_in_one_place_have_no_pose() -> None:
    assert pose(np.full((5, 2), 10, np.float32), 100) == (90, 90, 90)


def test_sharpness_falls_with_blur_and_is_none_for_a_plain_surface() -> None:
    rng = np.random.default_rng(3)
    sharp = cv2.resize(rng.integers(0, 255, (32, 32, 3), np.uint8), (128, 128)).astype(np.uint8)
    values = [sharpness(cv2.GaussianBlur(sharp, (0, 0), sigma).astype(np.uint8)) for sigma in (0.5, 4, 8, 16)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.95
    assert values[-1] < 0.5
    assert sharpness(np.full((128, 128, 3), 90, np.uint8)) == 0


def rated(*, width: float = 200, confidence: float = 1.0, yaw: float = 0, blurred: bool = False) -> Quality:
    crop = np.random.default_rng(3).integers(0, 255, (128, 128, 3), np.uint8)
    if blurred:
        crop = np.full_like(crop, 90)
    landmarks = REFERENCE * 128 if not yaw else projected(yaw, 0, 0)
    return assess(crop, landmarks, width, confidence)


def test_an_ideal_face_scores_one_and_every_fault_costs() -> None:
    assert rated().score == pytest.approx(1, abs=0.01)
    assert rated(width=18).score == pytest.approx(0.766, abs=0.01)
    assert rated(width=40).score == pytest.approx(0.995, abs=0.01)
    assert rated(yaw=60).score == pytest.approx(0.5, abs=0.03)
    assert rated(confidence=0.7).score == pytest.approx(0.5, abs=0.01)
    assert rated(confidence=0.5).score == 0
    assert rated(blurred=True).score == 0


def test_the_score_is_the_product() -> None:
    both = rated(width=24, confidence=0.8)
    assert both.score == pytest.approx(rated(width=24).score * rated(confidence=0.8).score / rated().score, rel=1e-3)
