"""Similarity transforms and crops."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embed_svc.alignment import REFERENCE, aligned_crop, plain_crop, similarity


@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_a_similarity_is_found_exactly(scale: float, angle: float, x: float, y: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (REFERENCE.astype(np.float64) @ turn.T + (x, y)).astype(np.float32)
    matrix = similarity(REFERENCE, moved)
    np.testing.assert_allclose(matrix, np.column_stack([turn, (x, y)]), atol=2e-3)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    mirrored = REFERENCE * np.array((-1, 1), np.float32)
    matrix = similarity(mirrored, REFERENCE)
    assert np.linalg.det(matrix[:, :2]) >= 0


def test_points_that_fall_together_are_shifted_only() -> None:
    matrix = similarity(np.full((5, 2), 7, np.float32), REFERENCE)
    np.testing.assert_allclose(matrix[:, :2], np.eye(2))
    assert np.isfinite(matrix).all()


def test_a_turned_and_enlarged_face_gives_the_same_crop() -> None:
    rng = np.random.default_rng(5)
    upright = cv2.GaussianBlur(rng.integers(0, 255, (128, 128, 3), np.uint8), (0, 0), 6)
    landmarks = REFERENCE * 128
    matrix = cv2.getRotationMatrix2D((64, 64), 25, 2.0)
    matrix[:, 2] += 100
    turned = cv2.warpAffine(upright, matrix, (400, 400))
    moved = (landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    crop = aligned_crop(turned.astype(np.uint8), moved, (128, 128))
    inner = np.s_[20:108, 20:108]
    assert np.abs(crop[inner].astype(int) - upright[inner]).mean() < 2


def test_a_plain_crop_is_the_box_and_stays_in_the_image() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    image[20:30, 40:60] = 255
    assert plain_crop(image, (40, 20, 20, 10), (48, 48)).min() == 255
    assert plain_crop(image, (58.9, 49.2, 1.1, 0.8), (48, 48)).shape == (48, 48, 3)
