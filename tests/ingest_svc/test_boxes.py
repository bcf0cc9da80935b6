"""Scene objects and camera objects are joined where their boxes agree."""

from typing import Any

import orjson
import pytest
from poi.v1 import common_pb2

from ingest_svc.boxes import Box, CameraBoxes, iou
from ingest_svc.scenes import SceneParser

START = 1_795_165_200_000


def frame(**boxes: Box) -> list[common_pb2.Detection]:
    return [
        common_pb2.Detection(
            object_id=object_id, person_box=common_pb2.BoundingBox(x=x, y=y, width=width, height=height)
        )
        for object_id, (x, y, width, height) in boxes.items()
    ]


def heard(*frames: tuple[int, list[common_pb2.Detection]]) -> CameraBoxes:
    """After these frames of camera c1: (ms after the start, detections)."""
    boxes = CameraBoxes()
    assert boxes.join("c1", START, {"p": (0, 0, 1, 1)}) == {}, "from the first scene message on, its frames are kept"
    for time, detections in frames:
        boxes.seen("c1", START + time, detections)
    return boxes


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 10, 10), 1 / 3),
        ((0, 5, 5, 5), 0.25),
        ((10, 0, 10, 10), 0.0),
        ((-20, -20, 5, 5), 0.0),
    ],
)
def test_intersection_over_union(other: Box, expected: float) -> None:
    assert iou((0, 0, 10, 10), other) == pytest.approx(expected)
    assert iou(other, (0, 0, 10, 10)) == pytest.approx(expected)


def test_boxes_must_agree_by_three_tenths() -> None:
    boxes = heard((0, frame(a=(0, 0, 100, 100), b=(500, 0, 100, 100))))
    # 47 columns of 153 are shared, 0.307; and 45 of 155, 0.290.
    assert boxes.join("c1", START, {"p": (53, 0, 100, 100), "q": (555, 0, 100, 100)}) == {"p": "a"}


def test_the_best_pairs_are_joined_one_to_one() -> None:
    boxes = heard((0, frame(a=(0, 0, 100, 100), b=(30, 0, 100, 100))))
    assert boxes.join("c1", START, {"p": (20, 0, 100, 100), "q": (28, 0, 100, 100)}) == {"q": "b", "p": "a"}
    assert boxes.join("c1", START, {"p": (20, 0, 100, 100)}) == {"p": "b"}
    assert boxes.join("c1", START, dict.fromkeys("pqr", (0, 0, 100, 100))) == {"p": "a", "q": "b"}


def test_the_nearest_frame_within_half_an_interval_counts() -> None:
    boxes = heard(*((time, frame(**{f"at{time}": (0.0, 0.0, 10.0, 10.0)})) for time in (0, 100, 200, 300, 700)))
    people: dict[str, Box] = {"p": (0, 0, 10, 10)}
    for time, expected in [(0, "at0"), (149, "at100"), (151, "at200"), (350, "at300"), (351, None), (650, "at700"),
                           (-51, None), (751, None)]:  # fmt: skip
        assert boxes.join("c1", START + time, people).get("p") == expected
    assert boxes.join("c2", START, people) == {}


def test_one_frame_tells_only_of_its_own_time() -> None:
    boxes = heard((0, frame(a=(0, 0, 10, 10))), (0, frame(a=(0, 0, 10, 10))))
    assert boxes.join("c1", START, {"p": (0, 0, 10, 10)}) == {"p": "a"}
    assert boxes.join("c1", START + 1, {"p": (0, 0, 10, 10)}) == {}


def test_a_face_without_a_person_is_no_box() -> None:
    boxes = heard((0, [common_pb2.Detection(object_id="a"), *frame(b=(0, 0, 10, 10))]))
    assert boxes.join("c1", START, {"p": (0, 0, 10, 10)}) == {"p": "b"}


@pytest.mark.parametrize("event", [False, True])
def test_scene_messages_and_events_name_the_cameras_ids(event: bool) -> None:
    parser = SceneParser("s1", max_objects=500)

    def parse(box: Any) -> Any:
        bounds = {"c1": {"x": 1, "y": 0, "width": 10, "height": 10, "projected": False}, "c2": box, "no id": box}
        person = {"id": "p1", "regions": {"door": {}}, "camera_bounds": bounds}
        other: dict[str, Any] = {"id": "p2", "regions": {"door": {}}, "camera_bounds": None}
        payload = orjson.dumps({"timestamp": START / 1000, "objects": [person, other]})
        return parser.parse_event("hall", "door", payload) if event else parser.parse("hall", payload)

    box = {"x": 0, "y": 0, "width": 10, "height": 10}
    first, _ = parse(box)
    for camera in ("c1", "c2"):
        parser.boxes.seen(camera, START, frame(**{"7": (0, 0, 10, 10)}))
    second, problems = parse(box)
    third, bad = parse({"x": 0, "y": 0, "width": 0, "height": 10})

    assert [list(person.tracks) for person in first.objects] == [[], []]
    assert [list(person.tracks) for person in second.objects] == [["cam:c1:7", "cam:c2:7"], []]
    assert problems == []
    assert [list(person.tracks) for person in third.objects] == [["cam:c1:7"], []]
    assert {problem.reason for problem in bad} == {"BAD_BOX"}
