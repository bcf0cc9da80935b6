"""The pipeline on real faces: the sample clips, and the recording made from them by another program."""

from __future__ import annotations

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from embed_svc.alignment import Box
from embed_svc.faces import Alignment, Face, FaceFinder, single
from mesh import errors
from tests.embed_svc.conftest import AISLE, BOTH, MAN, WOMAN, Frames

ALL = (Alignment.ALIGNED, Alignment.UNALIGNED, Alignment.MEAN)


def embeddings_of(finder: FaceFinder, frames: Frames, clip: str) -> NDArray[np.float32]:
    """One aligned embedding for each frame of a clip with one person, (n, 256)."""
    return np.array([single(finder.find(image, min_confidence=0.9)).embeddings[0] for image in frames(clip)[::2]])


def test_one_person_is_like_herself_and_unlike_another(finder: FaceFinder, frames: Frames) -> None:
    woman, man = embeddings_of(finder, frames, WOMAN), embeddings_of(finder, frames, MAN)
    for person in (woman, man):
        same = (person @ person.T)[np.triu_indices(len(person), 1)]
        assert same.min() > 0.45
        assert np.median(same) > 0.6
    assert (woman @ man.T).max() < 0.3


def recorded(shared_dir: Path) -> dict[tuple[str, str], NDArray[np.float32]]:
    """The recorded face embeddings by camera and person id."""
    found: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    with gzip.open(shared_dir / "recordings" / "store.jsonl.gz", "rt") as lines:
        for message in map(json.loads, lines):
            if not message["topic"].startswith("scenescape/data/camera/"):
                continue
            for person in message["payload"]["objects"].get("person", []):
                for face in person.get("sub_objects", {}).get("face", []):
                    vector = face["metadata"]["reid"]["embedding_vector"]
                    key = (message["payload"]["id"], str(person["id"]))
                    found.setdefault(key, []).append(np.frombuffer(base64.b64decode(vector), np.float32))
    return {key: np.array(vectors) for key, vectors in found.items()}


def test_embeddings_agree_with_those_of_the_recording(finder: FaceFinder, frames: Frames, shared_dir: Path) -> None:
    truth = json.loads((shared_dir / "recordings" / "truth.json").read_text())["people"]
    seen = recorded(shared_dir)
    for who, clip in (("woman", WOMAN), ("man", MAN)):
        references = embeddings_of(finder, frames, clip)
        hers = {(camera, person) for camera, persons in truth[who]["seen"].items() for person in persons}
        assert hers
        for key, vectors in seen.items():
            best = (vectors @ references.T).max(axis=1)
            if key in hers:
                assert best.min() > 0.55, key
                assert best.max() < 0.95, key
            else:
                assert best.max() < 0.35, key


def test_every_kind_of_embedding_is_normalised_and_in_the_order_asked(finder: FaceFinder, frames: Frames) -> None:
    image = frames(WOMAN)[4]
    aligned, unaligned, mean = single(finder.find(image, alignments=ALL)).embeddings
    for vector in (aligned, unaligned, mean):
        assert vector.shape == (256,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert 0.3 < aligned @ unaligned < 0.95
    np.testing.assert_allclose(mean, (aligned + unaligned) / np.linalg.norm(aligned + unaligned), atol=1e-6)
    turned = single(finder.find(image, alignments=(Alignment.MEAN, Alignment.ALIGNED))).embeddings
    np.testing.assert_allclose(turned[0], mean, atol=1e-4)
    np.testing.assert_allclose(turned[1], aligned, atol=1e-4)
    assert single(finder.find(image, alignments=(Alignment.UNALIGNED,))).embeddings[0] @ unaligned > 0.999


def test_alignment_undoes_a_lean_of_the_head(finder: FaceFinder, frames: Frames) -> None:
    image = frames(MAN)[0]
    height, width = image.shape[:2]
    lean = cv2.warpAffine(image, cv2.getRotationMatrix2D((width / 2, height / 2), 30, 1), (width, height))
    straight, leaning = (single(finder.find(i.astype(np.uint8), alignments=ALL)) for i in (image, lean))
    assert leaning.quality.roll == pytest.approx(straight.quality.roll - 30, abs=8)
    assert straight.embeddings[0] @ leaning.embeddings[0] > 0.8
    assert straight.embeddings[1] @ leaning.embeddings[1] < 0.7


def test_landmarks_lie_on_the_face_in_their_order(finder: FaceFinder, frames: Frames) -> None:
    face = single(finder.find(frames(MAN)[0]))
    x, y, width, height = face.box
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks.tolist()
    assert (face.landmarks >= (x, y)).all()
    assert (face.landmarks <= (x + width, y + height)).all()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_the_mirror_image_faces_the_other_way(finder: FaceFinder, frames: Frames) -> None:
    yaws = []
    for image in frames(WOMAN)[::2]:
        face = single(finder.find(image))
        mirrored = single(finder.find(np.ascontiguousarray(image[:, ::-1])))
        assert mirrored.quality.yaw == pytest.approx(-face.quality.yaw, abs=10)
        yaws.append(face.quality.yaw)
    assert min(yaws) < -30, "she looks to one side"
    assert max(yaws) > 30, "and to the other"


def test_blur_and_distance_lower_the_quality(finder: FaceFinder, frames: Frames) -> None:
    image = frames(MAN)[0]
    good = single(finder.find(image)).quality
    blurred = single(finder.find(cv2.GaussianBlur(image, (0, 0), 4).astype(np.uint8))).quality
    small = single(
        finder.find(cv2.resize(image, None, fx=0.35, fy=0.35, interpolation=cv2.INTER_AREA).astype(np.uint8))
    )
    assert good.score > 0.85
    assert good.sharpness > 0.95 > 0.7 > blurred.sharpness
    assert blurred.score < 0.7 * good.score
    assert small.quality.face_width == pytest.approx(0.35 * good.face_width, rel=0.1)
    assert small.quality.score < good.score


def test_several_faces_come_most_confident_first(finder: FaceFinder, frames: Frames) -> None:
    image = frames(BOTH)[0]
    faces = finder.find(image)
    assert len(faces) == 2
    confidences = [face.quality.confidence for face in faces]
    assert confidences == sorted(confidences, reverse=True)
    assert abs(faces[0].box[0] - faces[1].box[0]) > 100
    assert [face.box for face in finder.find(image, max_faces=1)] == [faces[0].box]
    assert [face.box for face in finder.find(image, min_confidence=(confidences[0] + confidences[1]) / 2)] == [
        faces[0].box
    ]
    with pytest.raises(errors.FailedPrecondition) as caught:
        single(faces)
    assert (caught.value.reason, caught.value.metadata) == ("MULTIPLE_FACES", {"faces": "2"})


def test_an_image_without_a_face_has_none(finder: FaceFinder, frames: Frames) -> None:
    for image in (np.full((240, 320, 3), 128, np.uint8), frames(AISLE)[0], np.zeros((1, 1, 3), np.uint8)):
        assert finder.find(image, min_confidence=0.9) == []
    with pytest.raises(errors.FailedPrecondition) as caught:
        single([])
    assert caught.value.reason == "NO_FACE"


def test_boxes_stay_inside_the_image(finder: FaceFinder, frames: Frames) -> None:
    face = single(finder.find(frames(MAN)[0]))
    x, y, width, height = (int(value) for value in face.box)
    cut = np.ascontiguousarray(frames(MAN)[0][y + height // 4 :, : x + 3 * width // 4])
    faces = finder.find(cut, min_confidence=0.3)
    assert faces
    for found in faces:
        left, top, wide, high = found.box
        assert left >= 0
        assert top >= 0
        assert left + wide <= cut.shape[1]
        assert top + high <= cut.shape[0]


def same(one: list[Face], other: list[Face]) -> bool:
    boxes: list[tuple[Box, Box]] = [(a.box, b.box) for a, b in zip(one, other, strict=True)]
    vectors = [(a.embeddings[0], b.embeddings[0]) for a, b in zip(one, other, strict=True)]
    return all(np.allclose(a, b) for a, b in boxes) and all(np.allclose(a, b, atol=1e-5) for a, b in vectors)


def test_concurrent_callers_get_what_they_get_alone(finder: FaceFinder, frames: Frames) -> None:
    images = [*frames(WOMAN)[:6], *frames(BOTH)[:6], *frames(MAN)[:4]]
    alone = [finder.find(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(finder.find, images * 3))
    assert len({len(faces) for faces in alone}) > 1
    assert all(same(faces, alone[i % len(images)]) for i, faces in enumerate(together))
