"""What must be exactly right, from a camera's message to the alert, history and the enrolled person's record.

Each of these is a defect that a system of this kind is known to have, and the test that it is not there. Where another
room's test is the closest look, it is named; `here` is this file.

| what must not happen                                      | test                                                     |
|-----------------------------------------------------------|----------------------------------------------------------|
| kill -9 of a process loses detections                     | test_crashes, test_replicas, history_svc/test_kill       |
| kill -9 of Redis loses what was acknowledged              | test_crashes, alert_svc/test_crash, match_svc/..replicas |
| an alert is lost while its sink is down                   | delivery/test_crash: ..._a_target_that_was_down_gets_... |
| a sink hangs, answers 500, closes early, answers twice    | delivery/test_webhook: ..._bad_answer_..., ..._given_... |
| NaN is stored as an embedding                             | here, test_refusals[nan], match_svc/test_registry        |
| a search that finds nobody is an error                    | here, history_svc/test_search: ..._nobody_found_...      |
| a deleted person raises alerts                            | here: test_who_is_deleted_..., match_svc/test_replicas   |
| a deleted person's photos are served                      | test_erased_photos                                       |
| a cached identity makes a stranger a match                | here: ..._recycled_id_..., match_svc/test_decisions      |
| a recycled id hides somebody from history or from alerts  | here: ..._recycled_id_..., history_svc/test_appearances  |
| a message shape is not understood                         | here: ..._every_shape_..., ingest_svc/test_cameras       |
| a replica that dies loses or repeats an alert             | test_replicas                                            |
| cameras' clocks that differ lose or double somebody       | here: ..._clocks_...                                     |
| twins alert twice                                         | test_twins                                               |
| who expires or leaves a list in a stream goes on alerting | here: ..._expires_...; test_off_the_list                 |
| a burst loses alerts                                      | delivery/test_webhook: test_ten_thousand_alerts_...      |
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import history_pb2, poi_pb2

from tests.e2e.floor import FACE_BOX, face, floor, last, person, text
from tests.e2e.store import Store
from tests.e2e.story import Window
from tests.e2e.stream import Stream
from tests.support import embedding, similar, unit

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

ANNE, BERT, STRANGER = unit(901), unit(902), unit(903)
TIME = "2026-11-20T09:00:00"


async def test_nan_enrols_nobody_and_is_named(store: Store) -> None:
    broken = ANNE.copy()
    broken[3] = math.nan
    async with floor(store) as here:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await here.enrol("anne", ANNE, broken)

        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "embeddings[1]" in (refused.value.details() or "")
        assert "anne" not in await here.client.pois()
        with pytest.raises(grpc.aio.AioRpcError) as unsearched:
            await here.client.look_for(broken, here.window.interval)
        assert unsearched.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_search_that_finds_nobody_is_an_empty_list(store: Store) -> None:
    async with floor(store) as here:
        found = await here.client.history.SearchAppearances(
            history_pb2.SearchAppearancesRequest(
                parent=here.parent, embedding=embedding(unit(31_415)), interval=here.window.interval
            )
        )

    assert (list(found.hits), found.total_size, found.next_page_token) == ([], 0, "")


async def test_a_recycled_id_hides_nobody_and_makes_no_stranger_a_match(store: Store) -> None:
    """The tracker gives one number to three people, one straight after the other."""
    camera = "exact-recycled"
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        await here.enrol("bert", BERT)
        await here.shows(camera, 5, [similar(ANNE, 0.8, 10 + number) for number in range(4)], at=0)
        await here.shows(camera, 5, [similar(STRANGER, 0.8, 20 + number) for number in range(4)], at=1)
        await here.shows(camera, 5, [similar(BERT, 0.8, 30 + number) for number in range(4)], at=2)
        await here.used()

        alerts = await here.alerts(camera)
        appearances = await here.client.appearances(here.window.interval, camera)
        of = {
            name: [one.name for one in await here.client.look_for(who, here.window.interval)]
            for name, who in (("anne", ANNE), ("stranger", STRANGER), ("bert", BERT))
        }

    assert sorted(one.detection_count for one in appearances) == [4, 4, 4]
    assert [len(names) for names in of.values()] == [1, 1, 1], "each is found, once"
    assert len({*of["anne"], *of["stranger"], *of["bert"]}) == 3
    assert sorted((last(one.match.poi), one.appearance) for one in alerts) == [
        ("anne", *of["anne"]),
        ("bert", *of["bert"]),
    ]


def _shape(object_id: str, body: dict[str, Any], timestamp: object = 0) -> dict[str, Any]:
    return {"id": "camera", "timestamp": timestamp, "objects": body, "expected_id": object_id}


def _with_embedding(value: object) -> dict[str, Any]:
    one = person(7)
    shown = {"confidence": 0.9, "bounding_box_px": FACE_BOX, "metadata": {"reid": {"embedding_vector": value}}}
    return _shape("7", {"person": [{**one, "sub_objects": {"face": [shown]}}]})


UUID = "1c9cbf2e-4f3c-4a0a-9a53-3a1f3f0a5b11"
SHAPES: dict[str, dict[str, Any]] = {
    "embedding in base64": _with_embedding(text(ANNE)),
    "embedding as a list": _with_embedding(ANNE.tolist()),
    "embedding as a nested list": _with_embedding([ANNE.tolist()]),
    "embedding as a JSON string": _with_embedding(orjson.dumps(ANNE.tolist()).decode()),
    "box as an object": _shape("7", {"person": [{**person(7, ANNE), "bounding_box_px": FACE_BOX}]}),
    "face under objects": _shape("7", {"face": [{**face(ANNE), "id": 7}]}),
    "id as a UUID": _shape(UUID, {"person": [person(UUID, ANNE)]}),
    "id as a string": _shape("7", {"person": [person("7", ANNE)]}),
    "time in seconds": _shape("7", {"person": [person(7, ANNE)]}, "seconds"),
    "time with a fraction": _shape("7", {"person": [person(7, ANNE)]}, "%Y-%m-%dT%H:%M:%S.250Z"),
    "time without a fraction": _shape("7", {"person": [person(7, ANNE)]}, "%Y-%m-%dT%H:%M:%SZ"),
}
"""Messages that pipelines send, each with Anne in it; the time is the test's."""


async def test_every_shape_of_a_message_alerts_and_is_kept(store: Store) -> None:
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        cameras = {f"exact-shape-{number}": shape for number, shape in enumerate(SHAPES.values())}
        for camera, shape in cameras.items():
            at, form = here.window.start + 1, shape["timestamp"]
            told = time.strftime(form, time.gmtime(at)) if isinstance(form, str) and "%" in form else at
            await here.send(camera, {**shape, "timestamp": told})
        await here.used()

        assert await here.raised(*cameras) == sorted(
            (camera, shape["expected_id"], "anne") for camera, shape in cameras.items()
        )


async def test_cameras_whose_clocks_differ_lose_and_double_nobody(store: Store) -> None:
    """One is four seconds slow, one four seconds fast; she walks from one to the other and back."""
    slow, fast = "exact-slow", "exact-fast"
    faces = [similar(ANNE, 0.8, 50 + number) for number in range(10)]
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        await here.shows(slow, 1, faces, at=10 - 4)
        await here.shows(fast, 1, faces, at=11 + 4)
        await here.shows(slow, 2, faces, at=12 - 4)
        await here.shows(fast, 2, faces, at=13 + 4)
        await here.used()

        assert await here.raised(slow, fast) == [(camera, number, "anne") for camera in (fast, slow) for number in "12"]
        found = await here.client.look_for(ANNE, here.window.interval)
        assert len({one.name for one in found}) == len(found) == 4
        assert all(one.detection_count == len(faces) for one in found)
        starts = [one.start_time.ToMilliseconds() - here.window.start * 1000 for one in found]
        assert sorted(starts) == [6000, 8000, 15_000, 17_000], "each camera's own time is kept"


async def test_who_is_deleted_in_the_middle_of_a_stream_alerts_no_more(store: Store) -> None:
    async with floor(store, Window(int(time.time()) - 1)) as here:
        await here.enrol("anne", ANNE)
        async with Stream(here, "exact-deleted", ANNE) as stream:
            await stream.alerting()
            before = await stream.matched()
            await here.client.forget("anne")
            after = stream.shown
            await stream.shows_more(20)

        numbers = await stream.alerts_of("anne")
        assert set(range(before)) <= numbers
        assert numbers <= set(range(after)), "nobody alerts whose face came after the answer"


async def test_who_expires_in_the_middle_of_a_stream_alerts_no_more(store: Store) -> None:
    expire_time = Timestamp()
    async with floor(store, Window(int(time.time()) - 1)) as here:
        anne = await here.enrol("anne", ANNE)
        async with Stream(here, "exact-expired", ANNE) as stream:
            await stream.alerting()
            end = time.time() + 2
            expire_time.FromNanoseconds(round(end * 1e9))
            await here.client.pois_service.UpdatePoi(
                poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=anne.name, expire_time=expire_time))
            )
            await asyncio.sleep(max(0.0, end - time.time()))
            after = stream.shown
            await stream.shows_more(20)

        numbers = await stream.alerts_of("anne")
        assert len(numbers) >= 3
        assert numbers <= set(range(after))


async def test_a_name_that_was_deleted_can_be_given_again_and_is_somebody_else(store: Store) -> None:
    """Nothing remembered of the first Anne, in a cache or a track, speaks of the second."""
    camera = "exact-again"
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        await here.shows(camera, 1, [ANNE, ANNE], at=0)
        await here.used()
        await here.client.forget("anne")
        second = await here.enrol("anne", BERT)
        await here.shows(camera, 1, [ANNE, ANNE], at=1)
        await here.shows(camera, 2, [BERT, BERT], at=2)
        await here.used()

        assert await here.raised(camera) == [(camera, "1", "anne"), (camera, "2", "anne")]
        (later,) = [one for one in await here.alerts(camera) if one.detect_time.seconds >= here.window.start + 1]
        references = {one.name for one in second.references}
        assert later.match.reference in references
        assert isinstance(second, poi_pb2.Poi)
