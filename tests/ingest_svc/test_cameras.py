"""Camera messages in every shape that pipelines send, and in shapes that they should not."""

import base64
import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poi.v1 import common_pb2

from ingest_svc.cameras import CameraMessage, CameraParser, detection_id
from ingest_svc.rejections import Refused
from tests.support import unit
from tests.support.detections import FACE_MODEL

VECTOR = unit(1)
BASE64 = base64.b64encode(VECTOR.tobytes()).decode()
TIME = "2026-11-20T09:00:00.250Z"
TIME_MS = 1_763_629_200_250 + 31_536_000_000  # 2026-11-20T09:00:00.250Z


def parser(**options: Any) -> CameraParser:
    return CameraParser("s1", model=FACE_MODEL, aligned_cameras=frozenset(options.pop("aligned", ())), max_objects=500)


def parse(content: object, **options: Any) -> CameraMessage:
    return parser(**options).parse("Camera_01", content if isinstance(content, bytes) else orjson.dumps(content))


def face(embedding: object = BASE64, **fields: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "confidence": 0.9,
        "bounding_box_px": {"x": 1, "y": 2, "width": 30, "height": 40},
        "metadata": {"reid": {"embedding_vector": embedding, "model_name": FACE_MODEL}},
        **fields,
    }


def person(*faces: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "confidence": 0.8,
        "bounding_box_px": {"x": 5, "y": 6, "width": 70, "height": 80},
        "sub_objects": {"face": list(faces)},
        **fields,
    }


def message(*people: object, timestamp: object = TIME) -> dict[str, Any]:
    return {"id": "Camera_01", "timestamp": timestamp, "objects": {"person": list(people)}}


def only(parsed: CameraMessage) -> common_pb2.Detection:
    assert parsed.problems == []
    (detection,) = parsed.detections
    return detection


def vector_of(detection: common_pb2.Detection) -> Any:
    return np.frombuffer(detection.embedding.vector, dtype="<f4")


def test_a_person_with_a_face_becomes_one_detection() -> None:
    parsed = parse(message(person(face())))

    detection = only(parsed)
    assert parsed.camera == detection.camera == "stores/s1/cameras/Camera_01"
    assert detection.object_id == "7"
    assert detection.detect_time.ToMilliseconds() == parsed.detect_ms == TIME_MS
    assert (detection.person_box.x, detection.person_box.height) == (5, 80)
    assert (detection.face_box.x, detection.face_box.height) == (1, 40)
    assert detection.person_confidence == pytest.approx(0.8)
    assert detection.face_confidence == pytest.approx(0.9)
    assert detection.embedding.model == FACE_MODEL
    assert detection.embedding.alignment == common_pb2.ALIGNMENT_UNALIGNED
    assert detection.embedding.vector == VECTOR.tobytes()


def test_a_person_without_a_face_is_a_detection_too() -> None:
    detection = only(parse(message(person())))

    assert not detection.HasField("embedding")
    assert not detection.HasField("face_box")


@pytest.mark.parametrize(
    "embedding",
    [
        BASE64,
        VECTOR.tolist(),
        [VECTOR.tolist()],
        [[VECTOR.tolist()]],
        orjson.dumps(VECTOR.tolist()).decode(),
        orjson.dumps([VECTOR.tolist()]).decode(),
    ],
    ids=["base64", "list", "nested list", "doubly nested list", "JSON string", "nested JSON string"],
)
def test_embeddings_come_in_many_forms(embedding: object) -> None:
    detection = only(parse(message(person(face(embedding)))))

    np.testing.assert_allclose(vector_of(detection), VECTOR, atol=1e-6)


@pytest.mark.parametrize(
    "place",
    [
        {"metadata": {"reid": BASE64}},
        {"metadata": {"reid": {"embedding_vector": BASE64}}},
        {"metadata": {}, "reid": BASE64},
        {"metadata": {}, "reid": {"embedding_vector": BASE64, "model_name": FACE_MODEL}},
    ],
)
def test_embeddings_come_in_many_places(place: dict[str, Any]) -> None:
    assert only(parse(message(person(face(**place))))).embedding.vector == VECTOR.tobytes()


def test_an_embedding_that_is_not_normalised_is_normalised() -> None:
    detection = only(parse(message(person(face((VECTOR * 17).tolist())))))

    np.testing.assert_allclose(vector_of(detection), VECTOR, atol=1e-6)


def test_bare_nan_in_json_costs_its_face_and_not_the_message() -> None:
    bad = [*VECTOR.tolist()[1:], float("nan")]
    content = message(person(face(), id=1), person(face(bad), id=2), person(id=3, bounding_box_px=[1, 2, math.inf, 4]))

    parsed = parse(json.dumps(content).encode())

    assert [(one.object_id, one.HasField("embedding")) for one in parsed.detections] == [("1", True), ("2", False)]
    assert [(problem.reason, problem.field) for problem in parsed.problems] == [
        ("BAD_BOX", "objects.person[2].bounding_box_px"),
        ("NOT_FINITE", "objects.person[1].sub_objects.face[0].metadata.reid.embedding_vector"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"timestamp": NaN}',
        '{"timestamp": -Infinity}',
        "NaN",
        '{"a": NaN',
        '{"a": "NaN}',
        "[NaN," * 100_000,
        f'{{"a": [NaN, {10**400}]}}',
    ],
)
def test_bare_nan_makes_no_json_of_anything_else(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text.encode())
    assert refused.value.problem.reason in ("BAD_JSON", "BAD_TIMESTAMP")


def test_a_number_too_large_beside_nan_costs_itself() -> None:
    content = message(person(id=1, bounding_box_px=[1, 2, 3, 10**200]), person(id=10**200), person(id=3, x=math.nan))

    parsed = parse(json.dumps(content).encode())

    assert [one.object_id for one in parsed.detections] == ["3"]
    assert [problem.reason for problem in parsed.problems] == ["BAD_BOX", "BAD_ID"]


def test_boxes_come_as_lists_or_objects() -> None:
    box = only(parse(message(person(bounding_box_px=[1.5, 2, 3, 4])))).person_box

    assert (box.x, box.y, box.width, box.height) == (1.5, 2, 3, 4)


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-11-20T09:00:00.250Z",
        "2026-11-20T09:00:00.250000Z",
        "2026-11-20T09:00:00.250",
        "2026-11-20T10:00:00.250+01:00",
        TIME_MS / 1000,
        str(TIME_MS / 1000),
        TIME_MS,
    ],
)
def test_times_come_as_iso_8601_or_epoch(timestamp: object) -> None:
    assert parse(message(person(), timestamp=timestamp)).detect_ms == TIME_MS


def test_a_time_without_a_fraction() -> None:
    assert parse(message(person(), timestamp="2026-11-20T09:00:00Z")).detect_ms == TIME_MS - 250


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, "3"), ("3", "3"), (3.0, "3"), ("1c9cbf2e-4f3c-4a0a-9a53-3a1f3f0a5b11",) * 2],
)
def test_ids_come_as_numbers_or_strings(value: object, expected: str) -> None:
    assert only(parse(message(person(id=value)))).object_id == expected


def test_faces_directly_under_objects() -> None:
    parsed = parse({"timestamp": TIME, "objects": {"face": [face(id=4), face(id=5)]}})

    assert [detection.object_id for detection in parsed.detections] == ["4", "5"]
    assert all(detection.embedding.vector for detection in parsed.detections)
    assert not parsed.detections[0].HasField("person_box")


def test_objects_as_a_flat_list_with_categories() -> None:
    parsed = parse(
        {"timestamp": TIME, "objects": [person(face(), category="person"), {"category": "vehicle", "id": 9}]}
    )

    assert only(parsed).object_id == "7"


def test_every_face_in_a_persons_box_is_matched() -> None:
    other = base64.b64encode(unit(2).tobytes()).decode()

    parsed = parse(message(person(face(confidence=0.6), face(other, confidence=0.99))))

    first, second = parsed.detections
    assert first.embedding.vector == unit(2).tobytes(), "the most confident face is the person's own"
    assert second.embedding.vector == VECTOR.tobytes()
    assert first.object_id == "7"
    assert second.object_id != "7"


def test_two_objects_with_one_id_are_two_detections() -> None:
    parsed = parse(message(person(), person()))

    assert len({detection.detection_id for detection in parsed.detections}) == 2


def test_an_object_without_an_id_is_still_matched() -> None:
    assert only(parse(message(person(face(), id=None)))).embedding.vector


def test_an_id_depends_on_camera_time_and_object_only() -> None:
    first, again = parse(message(person(face()))), parse(message(person(face(), confidence=0.1)))
    others = [
        parse(message(person(), timestamp="2026-11-20T09:00:00.251Z")),
        parse(message(person(id=8))),
        parser().parse("Camera_02", orjson.dumps(message(person()))),
    ]

    assert first.detections[0].detection_id == again.detections[0].detection_id
    assert len({only(first).detection_id, *(only(other).detection_id for other in others)}) == 4
    assert only(first).detection_id == detection_id("Camera_01", TIME_MS, "7")


def test_cameras_that_align_say_so() -> None:
    aligned = only(parse(message(person(face())), aligned=["Camera_01"]))
    every = only(parse(message(person(face())), aligned=["*"]))
    other = only(parse(message(person(face())), aligned=["Camera_02"]))

    assert aligned.embedding.alignment == every.embedding.alignment == common_pb2.ALIGNMENT_ALIGNED
    assert other.embedding.alignment == common_pb2.ALIGNMENT_UNALIGNED


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "BAD_JSON"),
        (b"{", "BAD_JSON"),
        (b"[]", "BAD_JSON"),
        (b"\xff\xfe", "BAD_JSON"),
        (b'{"timestamp": NaN}', "BAD_TIMESTAMP"),
        (orjson.dumps({"objects": {}}), "NO_TIMESTAMP"),
        (orjson.dumps({"timestamp": None, "objects": {}}), "NO_TIMESTAMP"),
        (orjson.dumps({"timestamp": "yesterday"}), "BAD_TIMESTAMP"),
        (orjson.dumps({"timestamp": True}), "BAD_TIMESTAMP"),
        (orjson.dumps({"timestamp": -5}), "BAD_TIMESTAMP"),
        (orjson.dumps({"timestamp": TIME, "objects": 3}), "BAD_OBJECT"),
        (orjson.dumps(message(*[{"id": number} for number in range(501)])), "TOO_MANY_OBJECTS"),
    ],
)
def test_messages_that_cannot_be_used_are_refused_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(payload)

    assert refused.value.problem.reason == reason


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        (VECTOR.tolist()[:255], "WRONG_DIMENSION"),
        (base64.b64encode(VECTOR.tobytes()[:1000]).decode(), "WRONG_DIMENSION"),
        ("not base64!", "BAD_EMBEDDING"),
        ("", "WRONG_DIMENSION"),
        ({"a": 1}, "BAD_EMBEDDING"),
        ([None] * 256, "NOT_FINITE"),
        (["x"] * 256, "BAD_EMBEDDING"),
        ([1e300] * 256, "NOT_FINITE"),
        ([0.0] * 256, "ZERO_EMBEDDING"),
        ("[" + ",".join(["NaN"] * 256) + "]", "NOT_FINITE"),
        (base64.b64encode(np.full(256, np.nan, "<f4").tobytes()).decode(), "NOT_FINITE"),
        (base64.b64encode(np.full(256, np.inf, "<f4").tobytes()).decode(), "NOT_FINITE"),
    ],
)
def test_a_bad_embedding_costs_itself_only(embedding: object, reason: str) -> None:
    parsed = parse(message(person(face(embedding), id=1), person(face(), id=2)))

    (problem,) = parsed.problems
    assert problem.reason == reason
    assert problem.field == "objects.person[0].sub_objects.face[0].metadata.reid.embedding_vector"
    bad, good = parsed.detections
    assert not bad.HasField("embedding"), "the person is kept as seen without a face"
    assert good.embedding.vector == VECTOR.tobytes()


def test_an_embedding_of_another_model_is_refused() -> None:
    other = face()
    other["metadata"]["reid"]["model_name"] = "another-model"

    (problem,) = parse(message(person(other))).problems

    assert problem.reason == "WRONG_MODEL"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (person(bounding_box_px=[1, 2, 3]), "BAD_BOX"),
        (person(bounding_box_px=[1, 2, 0, 4]), "BAD_BOX"),
        (person(bounding_box_px={"x": "a", "y": 2, "width": 3, "height": 4}), "BAD_BOX"),
        (person(id={}), "BAD_ID"),
        (person(id="x" * 129), "BAD_ID"),
        ("a string", "BAD_OBJECT"),
    ],
)
def test_a_bad_object_costs_itself_only(bad: object, reason: str) -> None:
    parsed = parse(message(bad, person(face(), id=2)))

    assert [problem.reason for problem in parsed.problems] == [reason]
    assert [detection.object_id for detection in parsed.detections] == ["2"]


def test_no_problem_holds_an_embedding() -> None:
    parsed = parse(message(person(face(VECTOR.tolist()[:255])), person(face("x" + BASE64))))

    text = repr(parsed.problems)
    assert BASE64[:20] not in text
    assert str(float(VECTOR[0]))[:8] not in text


KEYS = ["id", "timestamp", "objects", "person", "face", "sub_objects", "bounding_box_px", "x", "y", "width", "height"]
KEYS += ["metadata", "reid", "embedding_vector", "model_name", "confidence", "category"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            children,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=400, deadline=None)
@given(content=JSON, objects=JSON)
def test_nothing_but_refused_ever_comes_out(content: Any, objects: Any) -> None:
    for value in (content, {"timestamp": TIME, "objects": objects}):
        try:
            payload = orjson.dumps(value)
        except TypeError:  # an integer that JSON writers cannot write
            continue
        try:
            parsed = parse(payload)
        except Refused:
            continue
        assert isinstance(parsed, CameraMessage)
