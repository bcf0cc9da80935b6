"""Scene messages."""

from typing import Any

import orjson
import pytest

from ingest_svc.rejections import Refused
from ingest_svc.scenes import SceneParser

TIME = "2026-11-20T09:00:04.000Z"
SCENE = "db68a737-92db-4477-880b-07bc7d658ab9"


def parse(content: object) -> Any:
    return SceneParser("s1", max_objects=500).parse(SCENE, orjson.dumps(content))


def test_people_zones_and_cameras_of_an_update() -> None:
    update, problems = parse(
        {
            "timestamp": TIME,
            "objects": [
                {
                    "id": "p1",
                    "category": "person",
                    "visibility": ["Camera_01", "Camera_02"],
                    "regions": {"entrance": {"entered": "2026-11-20T09:00:00Z"}, "aisle-3": {}},
                },
                {"id": "cart", "category": "cart", "regions": {"entrance": {}}},
            ],
        }
    )

    assert problems == []
    assert update.scene == f"stores/s1/scenes/{SCENE}"
    assert update.update_time.ToJsonString() == "2026-11-20T09:00:04Z"
    (person,) = update.objects
    assert person.object_id == "p1"
    assert list(person.cameras) == ["stores/s1/cameras/Camera_01", "stores/s1/cameras/Camera_02"]
    entrance, aisle = person.zones
    assert entrance.enter_time.ToJsonString() == "2026-11-20T09:00:00Z"
    assert aisle.zone_id == "aisle-3"
    assert not aisle.HasField("enter_time")


def test_regions_named_by_people_become_ids() -> None:
    update, problems = parse({"timestamp": TIME, "objects": [{"id": 1, "regions": {"Aisle 3 / left": {}}}]})

    assert problems == []
    assert update.objects[0].zones[0].zone_id == "Aisle-3-left"


def test_an_empty_scene_is_an_update_too() -> None:
    update, problems = parse({"timestamp": TIME, "objects": []})

    assert problems == []
    assert len(update.objects) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"objects": []}, "NO_TIMESTAMP"),
        ({"timestamp": TIME, "objects": {"person": []}}, "BAD_OBJECT"),
        ({"timestamp": TIME, "objects": [{"id": n} for n in range(501)]}, "TOO_MANY_OBJECTS"),
    ],
)
def test_updates_that_cannot_be_used_are_refused(content: object, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(content)

    assert refused.value.problem.reason == reason


def test_a_bad_object_costs_itself_only() -> None:
    update, problems = parse(
        {
            "timestamp": TIME,
            "objects": ["x", {"id": {}}, {"id": 1, "regions": 5}, {"id": 2, "regions": {"a": {"entered": "soon"}}}],
        }
    )

    assert [problem.reason for problem in problems] == ["BAD_OBJECT", "BAD_ID", "BAD_OBJECT", "BAD_TIMESTAMP"]
    assert [item.object_id for item in update.objects] == ["2"]
    assert [zone.zone_id for zone in update.objects[0].zones] == ["a"], "a bad entry time does not cost the zone"
