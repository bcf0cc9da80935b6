"""Messages of scene controllers, and of the cameras whose boxes they name: what comes of them is what region takes."""

from __future__ import annotations

from typing import Any

import orjson

from tests.fuzz.json_mutator import JsonMutator
from tests.fuzz.street import IDS, Street
from tests.fuzz.target import Target
from tests.fuzz.targets.camera import BOX, person

KEYS = (
    *("timestamp", "objects", "entered", "exited", "object", "dwell", "id", "category", "type", "visibility"),
    *("regions", "camera_bounds", "region_id", "region_name", "Camera_01", "a", "door", "Aisle 3", "person"),
)
SOMEBODY: dict[str, Any] = {
    "id": "p1",
    "category": "person",
    "visibility": ["Camera_01", "a"],
    "regions": {"door": {"entered": "2026-11-20T09:00:00Z"}, "Aisle 3": {"entered": 1763629200.0}, "~": None},
    "camera_bounds": {"Camera_01": BOX, "a": [1, 2, 30, 40]},
}
SCENE = {"timestamp": 1763629200.0, "objects": [SOMEBODY, {**SOMEBODY, "id": 2, "visibility": None}]}
EVENT = {
    **SCENE,
    "entered": [SOMEBODY],
    "exited": [{"object": {**SOMEBODY, "id": 3}, "dwell": 3.5}],
    "region_id": "door",
    "region_name": "Aisle 3",
}
CAMERA = {"timestamp": 1763629200.0, "objects": {"person": [person(7), person(8)]}}
_SCENE, _EVENT, _CAMERA = range(3)


def make() -> Target:
    """The first byte is the kind of message, the second and third the ids in the topic."""
    street = Street()

    def test(data: bytes) -> None:
        if len(data) < 3:
            return
        first, second = (IDS[place % len(IDS)] for place in data[1:3])
        kind = data[0] % 4
        if kind == _EVENT:
            if "/" in first + second:  # the subscription does not take it
                return
            topic = f"{street.topics.region}{first}/{second}/objects"
        else:
            topic = (street.topics.camera if kind == _CAMERA else street.topics.scene) + first
        street.take(topic, data[3:])

    return Target(
        test,
        seeds=[
            bytes((kind, at, 1)) + orjson.dumps(content)
            for kind, content in ((_SCENE, SCENE), (_EVENT, EVENT), (_CAMERA, CAMERA))
            for at in (0, 1)
        ],
        mutate=JsonMutator(KEYS, [SOMEBODY, BOX, {"door": {"entered": 1}}, {"object": SOMEBODY}], head=3),
        remembers=True,
    )
