"""What cannot be used goes to the dead-letter topic and the list of rejections; the rest of the message is used."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from poi.v1 import alert_pb2, region_pb2

from clients.replay import Publisher
from tests.e2e.client import Client, until
from tests.e2e.store import Store
from tests.e2e.story import Window, publish, settle
from tests.support import unit

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

FACE = "objects.person[1].sub_objects.face[0]"
EMBEDDING = f"{FACE}.metadata.reid.embedding_vector"
BOX = {"x": 10, "y": 10, "width": 60, "height": 120}
VECTOR = unit(4711)
NOT_A_NUMBER = VECTOR.copy()
NOT_A_NUMBER[17] = math.nan


def text(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def person(object_id: object, embedding: object = None, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": object_id, "confidence": 0.9, "bounding_box_px": BOX}
    if embedding is not None:
        face = {"confidence": 0.9, "bounding_box_px": BOX, "metadata": {"reid": {"embedding_vector": embedding}}}
        made["sub_objects"] = {"face": [face]}
    return {**made, **fields}


def message(*people: object, **fields: Any) -> dict[str, Any]:
    return {"timestamp": 0, "objects": {"person": list(people)}, **fields}


def beside_good_ones(bad: object) -> dict[str, Any]:
    return message(person(1, text(VECTOR)), bad, person(3, text(VECTOR)))


NO_FACE = {"1": True, "2": False, "3": True}
"""The person is seen, but their face cannot be recognised."""


@dataclass(frozen=True)
class Case:
    """A message of a camera, and what becomes of it."""

    payload: Any
    """JSON (`timestamp` 0 stands for the test's time), or the bytes themselves."""
    refused: tuple[tuple[str, str], ...]
    """(reason, field) of each problem."""
    used: dict[str, bool] = field(default_factory=dict)
    """Object id of each person that is seen -> whether the face can be recognised."""

    def bytes(self, at: int) -> bytes:
        if isinstance(self.payload, bytes):
            return self.payload
        content = self.payload
        if isinstance(content, dict) and content.get("timestamp") == 0:
            content = {**content, "timestamp": at}
        return json.dumps(content).encode()  # unlike orjson it writes NaN, as many a pipeline does


CASES = {
    "bad-json": Case(b'{"timestamp": 1, "objects": ', (("BAD_JSON", ""),)),
    "binary": Case(bytes(range(256)), (("BAD_JSON", ""),)),
    "empty": Case(b"", (("BAD_JSON", ""),)),
    "no-object": Case([1, 2, 3], (("BAD_JSON", ""),)),
    "bottomless": Case(b"[" * 100_000, (("BAD_JSON", ""),)),
    "no-timestamp": Case({"objects": {"person": [person(1)]}}, (("NO_TIMESTAMP", "timestamp"),)),
    "odd-timestamp": Case(message(person(1), timestamp="noon"), (("BAD_TIMESTAMP", "timestamp"),)),
    "over-4-mb": Case(b'{"timestamp": 1, "objects": {}, "note": "' + b"x" * 4_000_000 + b'"}', (("TOO_LARGE", ""),)),
    "odd-objects": Case(message(objects="none"), (("BAD_OBJECT", "objects"),)),
    "odd-people": Case(
        message(objects={"person": {"id": 1}, "face": [person(2)]}), (("BAD_OBJECT", "objects.person"),), {"2": False}
    ),
    "odd-person": Case(beside_good_ones(17), (("BAD_OBJECT", "objects.person[1]"),), {"1": True, "3": True}),
    "odd-id": Case(beside_good_ones(person({})), (("BAD_ID", "objects.person[1].id"),), {"1": True, "3": True}),
    "odd-box": Case(
        beside_good_ones(person(2, bounding_box_px=[1, 2])),
        (("BAD_BOX", "objects.person[1].bounding_box_px"),),
        {"1": True, "3": True},
    ),
    "wrong-dimension": Case(
        beside_good_ones(person(2, text(unit(1, 128)))),
        (("WRONG_DIMENSION", EMBEDDING),),
        NO_FACE,
    ),
    "nan": Case(
        beside_good_ones(person(2, text(NOT_A_NUMBER))),
        (("NOT_FINITE", EMBEDDING),),
        NO_FACE,
    ),
    "nan-in-a-list": Case(
        beside_good_ones(person(2, NOT_A_NUMBER.tolist())),
        (("NOT_FINITE", EMBEDDING),),
        NO_FACE,
    ),
    "odd-embedding": Case(
        beside_good_ones(person(2, {"values": [1]})),
        (("BAD_EMBEDDING", EMBEDDING),),
        NO_FACE,
    ),
    "all-at-once": Case(
        message(person(1, text(VECTOR[:128])), "who", person(3, text(VECTOR))),
        (
            ("BAD_OBJECT", "objects.person[1]"),
            ("WRONG_DIMENSION", EMBEDDING.replace("[1]", "[0]", 1)),
        ),
        {"1": False, "3": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_camera_message(store: Store, name: str) -> None:
    case, window = CASES[name], Window()
    topic, payload = f"scenescape/data/camera/refused-{name}", case.bytes(window.start + 1)
    ingest = store.mesh.services["ingest"]
    pid = ingest.pid
    async with Client(store.mesh, store.store) as client, dead_letters(store.mesh.mqtt_url) as letters:
        before = await client.ingest_status()

        await asyncio.to_thread(publish, store.mesh.mqtt_url, [(topic, payload)])
        await settle(client, store.mesh.mqtt_url, window)

        assert ingest.running
        assert ingest.pid == pid
        after = await client.ingest_status()
        assert after.rejections - before.rejections == len(case.refused)
        await until(lambda: _listed(client, topic, len(case.refused)), "the rejections are listed")
        listed = await client.rejections(topic)
        assert sorted((one.reason, one.field) for one in listed) == sorted(case.refused)
        assert all(one.size_bytes == len(payload) and one.message for one in listed)
        letter = await letters(topic)
        assert sorted((one["reason"], one["field"]) for one in letter["problems"]) == sorted(case.refused)
        assert letter["size_bytes"] == len(payload)
        if len(payload) < 100_000:
            assert base64.b64decode(letter["payload_base64"]) == payload
        found = await client.appearances(window.interval, f"refused-{name}")
        assert sorted(one.object_id for one in found) == sorted(case.used)
        assert all(one.detection_count == 1 for one in found)
        hits = await client.look_for(VECTOR, window.interval)
        assert sorted(one.object_id for one in hits) == sorted(key for key, known in case.used.items() if known)


async def test_a_scene_message(store: Store) -> None:
    window = Window()
    topic = "scenescape/regulated/scene/refused"
    regions = {"door": {"entered": window.start}}
    people: list[Any] = [
        {"id": "p1", "regions": regions},
        "who",
        {"regions": regions},
        {"id": "p4", "regions": regions},
    ]
    async with Client(store.mesh, store.store) as client, dead_letters(store.mesh.mqtt_url) as letters:
        await asyncio.to_thread(
            publish,
            store.mesh.mqtt_url,
            [
                (topic, b"{"),
                (topic, orjson.dumps({"objects": []})),
                (topic, orjson.dumps({"timestamp": window.start + 1, "objects": people})),
            ],
        )
        await settle(client, store.mesh.mqtt_url, window)

        await until(lambda: _listed(client, topic, 4), "the rejections are listed")
        listed = [(one.reason, one.field) for one in await client.rejections(topic)]
        assert listed == [
            ("BAD_JSON", ""),
            ("NO_TIMESTAMP", "timestamp"),
            ("BAD_OBJECT", "objects[1]"),
            ("BAD_ID", "objects[2].id"),
        ]
        assert (await letters(topic))["problems"][0]["reason"] == "BAD_JSON"
        occupancy = await client.region.GetOccupancy(
            region_pb2.GetOccupancyRequest(name=f"stores/{store.store}/scenes/refused/occupancy")
        )
        (zone,) = occupancy.zones
        assert sorted(zone.object_ids) == ["p1", "p4"]
        gone = orjson.dumps({"timestamp": window.start + 6, "objects": []})  # leaves nothing behind for other tests
        await asyncio.to_thread(publish, store.mesh.mqtt_url, [(topic, gone)])
        await until(lambda: _closed(client, window), "both have left")


async def test_a_camera_that_answers_with_no_image(store: Store) -> None:
    window, topic = Window(), "scenescape/image/camera/refused-image"
    async with Client(store.mesh, store.store) as client, _camera(store.mesh.mqtt_url, "refused-image", window):
        shown = [("scenescape/data/camera/refused-image", orjson.dumps(message(person(1), timestamp=window.start + 1)))]
        await asyncio.to_thread(publish, store.mesh.mqtt_url, shown)
        await until(lambda: _listed(client, topic, 1), "the frame is refused")

        (refused,) = await client.rejections(topic)
        assert (refused.reason, refused.field) == ("BAD_IMAGE", "image")
        await settle(client, store.mesh.mqtt_url, window)
        (found,) = await client.appearances(window.interval, "refused-image")
        assert not found.frames


async def test_the_same_messages_again_raise_nothing_twice(store: Store) -> None:
    first = await store.play()
    store.expected.check(first)

    again = await store.play(window=first.window, speed=50)
    for name in ("ingest", "match"):  # and what they remember is no help
        await asyncio.to_thread(store.mesh.services[name].restart)
    third = await store.play(window=first.window, speed=50)

    for repeated in (again, third):
        assert repeated.streamed == []
        assert repeated.events == []
        assert [_raised(alert) for alert in repeated.listed] == [_raised(alert) for alert in first.listed]
        assert repeated.appearances == first.appearances
        assert repeated.visits == first.visits
        assert repeated.status.pending_messages == 0


def _raised(alert: alert_pb2.Alert) -> alert_pb2.Alert:
    """What was raised, without what may follow: a repeat raises nothing, but it may escalate.

    Ingest sends a face only where it is better by a step than those that it remembers to have sent. So a repeat may
    send one that is better by less than a step than those before, which may be just what an escalation needs.
    """
    raised = alert_pb2.Alert()
    raised.CopyFrom(alert)
    for later in ("match", "escalations", "runners_up", "evidence", "update_time", "etag"):
        raised.ClearField(later)
    raised.match.poi = alert.match.poi
    return raised


async def _listed(client: Client, topic: str, count: int) -> bool:
    return len(await client.rejections(topic)) >= count


async def _closed(client: Client, window: Window) -> bool:
    return [one.state for one in await client.visits(window.interval)] == [region_pb2.VISIT_STATE_CLOSED] * 2


@asynccontextmanager
async def _working(publisher: Publisher) -> AsyncIterator[None]:
    """Serves the connection in a thread meanwhile."""
    serving = asyncio.create_task(asyncio.to_thread(publisher.work, 240))
    try:
        yield
    finally:
        publisher.stop()
        await serving
        publisher.close()


@asynccontextmanager
async def dead_letters(mqtt_url: str) -> AsyncIterator[Callable[[str], Any]]:
    """Listens on the dead-letter topic: `await letters(topic)` gives the first letter about a topic."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    publisher = Publisher(mqtt_url)
    await asyncio.to_thread(publisher.connect)

    def hear(_: str, payload: bytes) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, orjson.loads(payload))

    publisher.subscribe("poi-mesh/dead-letter", hear)

    async def letter(topic: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                found = await heard.get()
                if found["topic"] == topic:
                    return found

    async with _working(publisher):
        yield letter


@asynccontextmanager
async def _camera(mqtt_url: str, camera: str, window: Window) -> AsyncIterator[None]:
    """Answers `getimage` with something that is no image."""
    publisher = Publisher(mqtt_url)
    await asyncio.to_thread(publisher.connect)
    answer = orjson.dumps({"timestamp": window.start + 1, "image": "no image at all"})
    publisher.subscribe(
        f"scenescape/cmd/camera/{camera}",
        lambda _, command: publisher.publish_once(f"scenescape/image/camera/{camera}", answer),
    )
    async with _working(publisher):
        yield
