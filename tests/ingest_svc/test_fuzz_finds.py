"""What fuzzing found in what cameras and scene controllers may send: each once broke more than its own message."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest
from poi.v1 import region_pb2

from ingest_svc.cameras import CameraMessage, CameraParser
from ingest_svc.rejections import Refused
from ingest_svc.scenes import SceneParser
from ingest_svc.vectors import normalise, raw_bytes
from mesh.errors import InvalidArgument
from tests.ingest_svc.test_batch_stream import Recorder, stream_to
from tests.support.detections import FACE_MODEL


def parse(content: object) -> CameraMessage:
    parser = CameraParser("s1", model=FACE_MODEL, aligned_cameras=frozenset(), max_objects=500)
    return parser.parse("c1", content if isinstance(content, bytes) else orjson.dumps(content))


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00+01:00"]
)
def test_a_time_in_the_year_0_or_10000_is_no_time(time: str) -> None:
    with pytest.raises(Refused) as refused:
        SceneParser("s1", max_objects=500).parse("scene", orjson.dumps({"timestamp": time, "objects": []}))

    assert (refused.value.problem.reason, refused.value.problem.field) == ("BAD_TIMESTAMP", "timestamp")


def test_a_category_a_thousand_lists_deep_is_no_category() -> None:
    deep = b"[" * 1000 + b"]" * 1000

    parsed = parse(b'{"timestamp": 1, "objects": [{"category": %s}, {"id": 1, "category": "person"}]}' % deep)

    assert [one.object_id for one in parsed.detections] == ["1"]


def test_a_number_beyond_all_floats_is_no_part_of_an_embedding() -> None:
    with pytest.raises(Refused) as refused:
        raw_bytes([10**400] * 256, "reid", 256)

    assert (refused.value.problem.reason, refused.value.problem.field) == ("NOT_FINITE", "reid")


@pytest.mark.parametrize("value", [3e38, 1e30, 1e-6])
def test_the_largest_and_the_smallest_vector_has_a_direction_too(value: float) -> None:
    vector = np.full(256, value, "<f4")

    (found,) = normalise([vector.tobytes()], ["reid"], 256)

    assert isinstance(found, bytes)
    assert np.allclose(np.frombuffer(found, "<f4"), 1 / 16)


def test_hundreds_of_objects_with_one_id_have_ids_that_history_takes() -> None:
    parsed = parse({"timestamp": 1, "objects": {"person": [{"id": "x" * 128}] * 500}})

    assert len({one.detection_id for one in parsed.detections}) == 500
    assert max(len(one.object_id) for one in parsed.detections) <= 160


def test_the_faces_of_one_person_are_counted_as_objects() -> None:
    people: Any = [{"id": 1, "sub_objects": {"face": [{}] * 501}}]

    with pytest.raises(Refused) as refused:
        parse({"timestamp": 1, "objects": {"person": people}})

    assert refused.value.problem.reason == "TOO_MANY_OBJECTS"


@pytest.mark.parametrize(
    "objects",
    [
        {"person": [1] * 501},
        {"person": [], "face": ["x"] * 501},
        {"person": [{}] * 250, "face": [{}] * 251},
        {"person": [{"id": 1, "sub_objects": {"face": [0] * 501}}]},
        [{"category": "face"}] * 501,
        [None] * 501,
    ],
)
def test_what_stands_in_the_place_of_objects_is_counted(objects: object) -> None:
    """A message has room for two million of these, each with its own explanation."""
    with pytest.raises(Refused) as refused:
        parse({"timestamp": 1, "objects": objects})

    assert refused.value.problem.reason == "TOO_MANY_OBJECTS"


def test_objects_of_other_kinds_are_not_counted() -> None:
    others = [{"category": "vehicle"}] * 1000

    assert len(parse({"timestamp": 1, "objects": [*others, {"id": 1}]}).detections) == 1
    assert len(parse({"timestamp": 1, "objects": {"vehicle": others, "person": [{"id": 1}]}}).detections) == 1


@pytest.mark.parametrize("field", ["visibility", "regions", "camera_bounds"])
def test_a_person_in_more_places_than_there_are_costs_itself(field: str) -> None:
    """Each region became a visit that is kept for a week, and each visit named all cameras."""
    names = [f"n{number}" for number in range(201)]
    crowd = {"id": 1, field: names if field == "visibility" else dict.fromkeys(names)}
    message = {"timestamp": 1, "objects": [crowd, {"id": 2}]}
    parser = SceneParser("s1", max_objects=500)

    update, problems = parser.parse("scene", orjson.dumps(message))
    event, problems_of_event = parser.parse_event("scene", "door", orjson.dumps(message))

    assert [one.object_id for one in update.objects] == [one.object_id for one in event.objects] == ["2"]
    expected = [("TOO_MANY_PLACES", f"objects[0].{field}")]
    assert [(one.reason, one.field) for one in problems] == expected
    assert [(one.reason, one.field) for one in problems_of_event] == expected


async def test_a_batch_that_no_message_can_hold_does_not_hold_up_the_others() -> None:
    object_with_many_cameras = region_pb2.SceneObject(object_id="1", cameras=["stores/s1/cameras/c"] * 500_000)
    recorder = Recorder()
    async with stream_to(recorder) as (stream, _):
        huge = region_pb2.RecordSceneUpdatesRequest(
            updates=[region_pb2.SceneUpdate(objects=[object_with_many_cameras])]
        )

        with pytest.raises(InvalidArgument) as refused:
            await asyncio.wait_for(stream.send(huge), 10)
        answer = await asyncio.wait_for(stream.send(region_pb2.RecordSceneUpdatesRequest()), 10)

    assert refused.value.reason == "TOO_LARGE"
    assert recorder.seen == [answer.batch_id]
