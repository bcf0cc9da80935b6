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


QUEUE = "5908cfbe-2090-4dc9-b200-6608e2c3be86"


def event(payload: dict[str, Any], *, parser: SceneParser | None = None, region: str = QUEUE) -> Any:
    """What a region's event says. Its shape is that of Intel's scene controller."""
    content = {
        "timestamp": TIME,
        "scene_id": SCENE,
        "scene_name": "store",
        "region_id": QUEUE,
        "region_name": "queue",
        "counts": {},
        "objects": [],
        "entered": [],
        "exited": [],
        "metadata": {"points": [[0.4, 3.1], [0.3, 1.8], [2.9, 0.5]], "title": "queue", "uuid": QUEUE, "area": "poly"},
    }
    return (parser or SceneParser("s1", max_objects=500)).parse_event(SCENE, region, orjson.dumps(content | payload))


def person(object_id: str, *, region: str = QUEUE, **more: Any) -> dict[str, Any]:
    return {"id": object_id, "category": "person", "regions": {region: {"entered": "2026-11-20T09:00:01Z"}}, **more}


def test_an_entry_tells_of_all_who_are_in_the_zone_and_when_they_entered() -> None:
    update, problems = event(
        {
            "counts": {"person": 2, "cart": 1},
            "objects": [person("p1", visibility=["c1"]), person("p2"), {"id": "cart-1", "category": "cart"}],
            "entered": [{"id": "p1", "category": "person"}, {"id": "p3", "type": "person"}],
        }
    )

    assert problems == []
    assert update.scene == f"stores/s1/scenes/{SCENE}"
    assert update.update_time.ToJsonString() == "2026-11-20T09:00:04Z"
    assert update.zone_id == QUEUE
    assert [(one.object_id, [zone.zone_id for zone in one.zones]) for one in update.objects] == [
        ("p1", [QUEUE]),
        ("p2", [QUEUE]),
        ("p3", [QUEUE]),
    ]
    assert update.objects[0].zones[0].enter_time.ToJsonString() == "2026-11-20T09:00:01Z"
    assert not update.objects[2].zones[0].HasField("enter_time")
    assert list(update.objects[0].cameras) == ["stores/s1/cameras/c1"]


@pytest.mark.parametrize("exit", [{"object": {"id": 7, "type": "person", "regions": {}}, "dwell": 19.6}, {"id": 7}])
def test_an_exit_tells_who_is_not_in_the_zone_any_more(exit: dict[str, Any]) -> None:
    update, problems = event({"objects": [person("p2"), person("7")], "exited": [exit]})

    assert problems == []
    assert [(one.object_id, len(one.zones)) for one in update.objects] == [("7", 0), ("p2", 1)]


def test_a_region_is_called_what_scene_messages_call_it() -> None:
    parser = SceneParser("s1", max_objects=500)
    entry, _ = event({"objects": [person("p1", region="queue")]}, parser=parser)
    exit, _ = event({"exited": [{"object": {"id": "p1"}, "dwell": 1}]}, parser=parser)
    other, _ = event({"exited": [{"object": {"id": "p1"}, "dwell": 1}]}, parser=parser, region="Aisle 3")

    assert [update.zone_id for update in (entry, exit, other)] == ["queue", "queue", "Aisle-3"]
    assert entry.objects[0].zones[0].zone_id == "queue"
    assert entry.objects[0].zones[0].HasField("enter_time")


def test_an_event_about_no_person_says_nothing() -> None:
    update, problems = event({"objects": [{"id": "c", "category": "cart"}], "entered": [{"id": "c", "type": "cart"}]})

    assert problems == []
    assert len(update.objects) == 0


@pytest.mark.parametrize(
    ("payload", "region", "reason"),
    [
        ({"timestamp": None}, QUEUE, "NO_TIMESTAMP"),
        ({"entered": {"id": 1}}, QUEUE, "BAD_OBJECT"),
        ({"entered": [{"id": n} for n in range(501)]}, QUEUE, "TOO_MANY_OBJECTS"),
        ({}, "...", "BAD_ID"),
    ],
)
def test_events_that_cannot_be_used_are_refused(payload: dict[str, Any], region: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        event(payload, region=region)

    assert refused.value.problem.reason == reason


def test_a_bad_part_of_an_event_costs_itself_only() -> None:
    update, problems = event(
        {
            "objects": ["x", {"id": {}}, {"id": 1, "regions": 5}, {"id": 2, "regions": {QUEUE: {"entered": "soon"}}}],
            "exited": [{"object": {"id": []}}, {"object": {"id": 3}}],
        }
    )

    assert [problem.reason for problem in problems] == [
        "BAD_ID", "BAD_OBJECT", "BAD_ID", "BAD_OBJECT", "BAD_TIMESTAMP"
    ]  # fmt: skip
    assert [(one.object_id, len(one.zones)) for one in update.objects] == [("3", 0), ("1", 1), ("2", 1)]
