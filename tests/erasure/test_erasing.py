"""What an erasure takes, what it leaves, and which requests it refuses."""

from __future__ import annotations

import asyncio
import base64
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, delivery_pb2, delivery_pb2_grpc, erasure_pb2, history_pb2, region_pb2, region_pb2_grpc

from mesh import channels
from mesh import redis as connections
from mesh.erasure.eraser import Eraser
from mesh.erasure.receipts import Signer
from mesh.erasure.store import OPEN, Erasures
from mesh.errors import InvalidArgument
from mesh.local import free_port
from tests.delivery.receiver import Receiver, receiving
from tests.e2e.client import until
from tests.erasure.conftest import STORE, Scene
from tests.erasure.everything import Secrets, in_files, in_redis
from tests.erasure.support import DONE, refusal
from tests.support import similar, unit

pytestmark = pytest.mark.timeout(120)

PARENT = f"stores/{STORE}"


async def _shown(scene: Scene, camera: str, object_id: int, seed: int, *, at: float = 0.0) -> None:
    faces = [similar(unit(seed), 0.9, seed + each) for each in range(4)]
    await scene.here.shows(camera, object_id, faces, at=at)
    await scene.here.used()


async def test_a_plan_is_refused_once_there_is_more_than_it_says(scene: Scene) -> None:
    await scene.here.enrol("stale", unit(2000))
    await _shown(scene, "stale-one", 1, 2000)
    person = scene.eraser.person("stale")
    plan = await scene.eraser.plan(person)
    assert plan.plan == (await scene.eraser.plan(person)).plan, "nothing has come"
    await _shown(scene, "stale-two", 2, 2000, at=2)

    error = await refusal(scene.eraser.erase(scene.eraser.request(person, plan)))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "PLAN_STALE")
    assert len(await scene.here.alerts("stale-one", "stale-two")) == 2, "nothing was done"

    request = scene.eraser.request(person, plan)
    request.allow_newer = True
    done = await scene.eraser.erase(request)
    assert (await scene.eraser.check(done))["history: appearances"] == 2


async def test_requests_that_make_no_sense_are_refused(scene: Scene) -> None:
    await scene.here.enrol("asked", unit(2100))
    person, other = scene.eraser.person("asked"), scene.eraser.person("stranger")
    plan = await scene.eraser.plan(person)
    wanted = {
        scene.eraser.erase(erasure_pb2.ErasePersonRequest(parent=PARENT, person=person)): "INVALID_ARGUMENT",
        scene.eraser.plan(erasure_pb2.ErasedPerson()): "INVALID_ARGUMENT",
        scene.eraser.plan(other): "RESOURCE_NOT_FOUND",
        scene.eraser.plan(erasure_pb2.ErasedPerson(appearances=[f"{PARENT}/appearances/{'0' * 32}"])): (
            "RESOURCE_NOT_FOUND"
        ),
        scene.eraser.plan(erasure_pb2.ErasedPerson(poi="stores/elsewhere/pois/asked")): "RESOURCE_NOT_FOUND",
        scene.eraser.erase(scene.eraser.request(person, erasure_pb2.PersonErasure(plan="0" * 32))): "PLAN_UNKNOWN",
        scene.eraser.erase(scene.eraser.request(other, plan)): "PLAN_UNKNOWN",
    }
    for call, reason in wanted.items():
        assert (await refusal(call)).reason == reason
    elsewhere = erasure_pb2.ErasePersonRequest(
        parent="stores/elsewhere",
        person=erasure_pb2.ErasedPerson(poi="stores/elsewhere/pois/asked"),
        validate_only=True,
    )
    assert (await refusal(scene.eraser.stub.ErasePerson(elsewhere))).reason == "RESOURCE_NOT_FOUND"
    assert "asked" in await scene.here.client.pois()


async def test_a_request_id_is_of_one_person_and_what_was_done_stays_done(scene: Scene) -> None:
    for number, poi_id in enumerate(("first", "second")):
        await scene.here.enrol(poi_id, unit(2120 + number))
    first, second = scene.eraser.person("first"), scene.eraser.person("second")
    await scene.eraser.plan(first)
    await _shown(scene, "first-one", 1, 2120)
    request = scene.eraser.request(first, await scene.eraser.plan(first))
    done = await scene.eraser.erase(request)
    gone = Secrets()
    gone.text("pois/first", "the person's name as a resource")
    assert in_redis(scene.mesh.redis_url, gone, but=("personErasure", ":audit")) == {}, "no plan says it either"
    other = scene.eraser.request(second, await scene.eraser.plan(second))
    other.request_id = request.request_id

    error = await refusal(scene.eraser.erase(other))

    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.violations[0][0]) == ("REQUEST_ID_REUSED", "request_id")
    assert "second" in await scene.here.client.pois(), "and nobody was told that they are gone"
    assert await scene.eraser.erase(request) == done


async def test_a_server_that_is_late_brings_nothing_of_a_person_back(redis_url: str) -> None:
    client = connections.connect(redis_url)
    erasures = Erasures(client)
    erasure = erasure_pb2.PersonErasure(name=f"{PARENT}/personErasures/e1", state=erasure_pb2.ERASURE_STATE_RUNNING)
    found = erasure_pb2.TraceSubject(appearances=[f"{PARENT}/appearances/{'a' * 32}"])
    await erasures.begin(erasure, found)
    done = erasure_pb2.PersonErasure(name=erasure.name, state=DONE)
    assert await erasures.save(done)

    found.appearances.append(f"{PARENT}/appearances/{'b' * 32}")
    await erasures.add(erasure.name, found)
    erasure.state = erasure_pb2.ERASURE_STATE_INCOMPLETE
    assert not await erasures.save(erasure)

    kept = await erasures.get(erasure.name)
    assert kept is not None
    assert (kept.erasure, kept.subject) == (done, None)
    await client.aclose()


async def test_an_erasure_that_is_done_is_not_looked_after_for_ever(redis_url: str, tmp_path: Path) -> None:
    client = connections.connect(redis_url)
    erasures = Erasures(client)
    erasure = erasure_pb2.PersonErasure(name=f"{PARENT}/personErasures/e1", state=DONE)
    await erasures.begin(erasure, erasure_pb2.TraceSubject())
    await erasures.save(erasure)
    await client.sadd(OPEN, f"{STORE} e1")  # its server was killed before it took it off  # type: ignore[misc]

    await Eraser(erasures, {}, Signer.create(tmp_path / "key"), 1).carry_out(erasure.name)

    assert await erasures.open() == []
    await client.aclose()


async def test_somebody_who_was_never_enrolled_is_erased_by_an_appearance(scene: Scene) -> None:
    await _shown(scene, "nobody", 1, 2200)
    await _shown(scene, "nobody", 2, 2250, at=5)
    mine, other = sorted(
        await scene.here.client.appearances(scene.here.window.interval, "nobody"), key=lambda one: one.object_id
    )

    person = erasure_pb2.ErasedPerson(appearances=[mine.name])
    plan = await scene.eraser.plan(person)
    done = await scene.eraser.erase(scene.eraser.request(person, plan))

    assert done.state == DONE
    assert (await scene.eraser.check(done))["history: detections"] == 4
    left = await scene.here.client.appearances(scene.here.window.interval, "nobody")
    assert [one.name for one in left] == [other.name]
    secrets = Secrets()
    for each in range(4):
        secrets.vector(similar(unit(2200), 0.9, 2200 + each), "face")
    assert in_files(scene.mesh.data_dir / "history-data", secrets) == {}


async def test_alerts_of_others_no_longer_name_the_person_and_followers_are_told(scene: Scene) -> None:
    anne, twin = unit(2300), similar(unit(2300), 0.8, 2301)
    await scene.here.enrol("anne", anne, display_name="Anne Unmistakable")
    await scene.here.enrol("twin", twin, twin=True, display_name="Twin Unmistakable")
    before = await _cursor(scene)
    for camera, object_id, face, at in (("twins", 1, anne, 0), ("twins", 2, twin, 5)):
        await scene.here.shows(camera, object_id, [similar(face, 0.9, 40 + each) for each in range(5)], at=at)
    await scene.here.used()
    hers, others = sorted(await scene.here.alerts("twins"), key=lambda one: one.match.poi)
    assert [one.poi for one in others.runners_up] == [f"{PARENT}/pois/anne"]
    secrets = Secrets()
    secrets.text("Anne Unmistakable", "display name")
    assert in_redis(scene.mesh.redis_url, secrets)
    request = alert_pb2.StreamAlertsRequest(parent=PARENT, cursor=before)
    live = scene.here.client.alert.StreamAlerts(request)
    seen = await _events(live, 2)

    person = scene.eraser.person("anne")
    person.min_similarity = 0.85  # as they look alike
    done = await scene.eraser.erase(scene.eraser.request(person, await scene.eraser.plan(person)))

    assert done.state == DONE
    told = await _events(live, 2)
    assert {(one.event, one.alert.name) for one in told} == {
        (alert_pb2.ALERT_EVENT_ERASED, hers.name),
        (alert_pb2.ALERT_EVENT_ERASED, others.name),
    }
    assert all("Anne" not in str(one) for one in told)
    assert in_redis(scene.mesh.redis_url, secrets) == {}
    assert in_files(scene.mesh.data_dir, secrets) == {}
    (left,) = await scene.here.alerts("twins")
    assert left.name == others.name
    assert not left.runners_up
    # Who comes back with an old cursor hears of the other one as before, and of her nothing but that she is gone.
    again = await _events(scene.here.client.alert.StreamAlerts(request), 3)
    assert [one.cursor for one in again if one.event == alert_pb2.ALERT_EVENT_RAISED] == [seen[1].cursor]
    assert all("Anne" not in str(one) for one in again)


async def test_who_is_enrolled_again_alerts_at_once(scene: Scene) -> None:
    await scene.here.enrol("again", unit(2400))
    await _shown(scene, "again", 1, 2400)
    person = scene.eraser.person("again")
    await scene.eraser.erase(scene.eraser.request(person, await scene.eraser.plan(person)))

    await scene.here.enrol("again", unit(2400))
    await _shown(scene, "again", 2, 2400, at=20)

    assert len(await scene.here.alerts("again")) == 1


async def test_an_alert_that_waits_for_its_target_is_not_delivered_any_more(scene: Scene) -> None:
    async with channels.connect(scene.mesh.target("alert")) as channel:
        stub: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(channel)
        port = free_port()
        hook = delivery_pb2.WebhookTarget(
            url=f"http://127.0.0.1:{port}/hook", secret="whsec_" + base64.b64encode(b"x" * 32).decode()
        )
        target = delivery_pb2.Target(display_name="down", webhook=hook)
        request = delivery_pb2.CreateTargetRequest(parent=PARENT, target_id="down", target=target)
        await stub.CreateTarget(request)
        for poi_id, seed, at in (("waits", 2500, 0), ("other", 2550, 5)):
            await scene.here.enrol(poi_id, unit(seed), display_name=f"Display of {poi_id}")
            await _shown(scene, "waiting", seed, seed, at=at)

        async def tried() -> bool:
            listed = await stub.ListDeliveries(delivery_pb2.ListDeliveriesRequest(parent=f"{PARENT}/targets/down"))
            return any(one.attempt_count > 1 for one in listed.deliveries)

        await until(tried, "the first alert was tried")
        person = scene.eraser.person("waits")
        done = await scene.eraser.erase(scene.eraser.request(person, await scene.eraser.plan(person)))
        assert done.state == DONE
        (other,) = await scene.here.alerts("waiting")

        receiver = Receiver(port=port)
        async with receiving(receiver):

            async def heard() -> bool:
                return any(post.alert == other.name for post in receiver.posts)

            await until(heard, "the other alert was delivered")
            await stub.DeleteTarget(delivery_pb2.DeleteTargetRequest(name=f"{PARENT}/targets/down"))
        assert all(b"Display of waits" not in post.body for post in receiver.posts)
        assert [post.message["event"] for post in receiver.posts if post.alert == other.name] == ["ALERT_EVENT_RAISED"]


async def test_visits_of_the_persons_tracks_go_and_those_of_others_stay(scene: Scene) -> None:
    await _shown(scene, "zones", 7, 2600)
    (found,) = await scene.here.client.appearances(scene.here.window.interval, "zones")
    start = found.start_time.seconds
    scene_name = f"{PARENT}/scenes/{uuid.uuid4()}"
    async with channels.connect(scene.mesh.target("region")) as channel:
        region: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)
        updates = []
        for at in range(3):
            update = region_pb2.SceneUpdate(scene=scene_name)
            update.update_time.seconds = start + at
            for object_id, track in (("hers", "cam:zones:7"), ("his", "cam:zones:8"), ("unknown", "")):
                update.objects.add(
                    object_id=object_id,
                    zones=[region_pb2.ZonePresence(zone_id="till")],
                    cameras=[f"{PARENT}/cameras/zones"],
                    tracks=[track] if track else [],
                )
            updates.append(update)
        request = region_pb2.RecordSceneUpdatesRequest(parent=PARENT, updates=updates)
        async for answer in region.RecordSceneUpdates(iter([request])):
            assert not answer.errors
            break

        person = erasure_pb2.ErasedPerson(appearances=[found.name])
        plan = await scene.eraser.plan(person)
        done = await scene.eraser.erase(scene.eraser.request(person, plan))

        assert (await scene.eraser.check(done))["region: visits to zones"] == 1
        (unknown,) = [one for one in done.remainders if one.keeper == "region"]
        assert unknown.count == 1
        listed = await region.ListVisits(region_pb2.ListVisitsRequest(parent=PARENT, page_size=1000))
        people = [one.object_id for one in listed.visits if one.zone.startswith(scene_name)]
        assert sorted(people) == ["his", "unknown"]
        # The scene goes on: its recorder had her visit in memory.
        updates[-1].update_time.seconds += 1
        again = region_pb2.RecordSceneUpdatesRequest(parent=PARENT, updates=updates[-1:])
        async for answer in region.RecordSceneUpdates(iter([again])):
            assert not answer.errors
            break


async def test_frames_that_show_the_person_beside_others_go_as_well(scene: Scene) -> None:
    for object_id, seed in ((1, 2700), (2, 2750)):
        await _shown(scene, "crowd", object_id, seed)
    mine, other = sorted(
        await scene.here.client.appearances(scene.here.window.interval, "crowd"), key=lambda one: one.object_id
    )
    await _shown(scene, "crowd", 3, 2790, at=30)
    uploads = []
    for number, seconds in ((1, 0), (2, 20)):
        picture = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10" + bytes([number]) * 2000
        upload = history_pb2.FrameUpload(camera=other.camera, image=picture, appearances=[other.name])
        upload.capture_time.seconds = other.start_time.seconds + seconds
        uploads.append(upload)
    request = history_pb2.AppendDetectionsRequest(parent=PARENT, frames=uploads)
    async for answer in scene.here.client.history.AppendDetections(iter([request])):
        assert not answer.frame_errors
        break

    person = erasure_pb2.ErasedPerson(appearances=[mine.name])
    done = await scene.eraser.erase(scene.eraser.request(person, await scene.eraser.plan(person)))

    assert (await scene.eraser.check(done))["history: frames and pictures"] == 1
    left = await scene.here.client.history.GetAppearance(history_pb2.GetAppearanceRequest(name=other.name))
    assert [one.capture_time.seconds for one in left.frames] == [other.start_time.seconds + 20]
    late = history_pb2.AppendDetectionsRequest(parent=PARENT, frames=[uploads[0]])
    late.frames[0].appearances[:] = [mine.name]
    async for answer in scene.here.client.history.AppendDetections(iter([late])):
        assert answer.frame_errors, "a frame that comes late for an erased appearance is not taken"
        break


async def _cursor(scene: Scene) -> str:
    """The log's end now."""
    live: Any = scene.here.client.alert.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=PARENT))
    first: alert_pb2.StreamAlertsResponse = await live.read()
    live.cancel()
    return first.cursor


async def _events(stream: Any, count: int) -> list[alert_pb2.StreamAlertsResponse]:
    """So many events that are none of a heartbeat."""
    found: list[alert_pb2.StreamAlertsResponse] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            one: alert_pb2.StreamAlertsResponse = await stream.read()
            if one.event != alert_pb2.ALERT_EVENT_HEARTBEAT:
                found.append(one)
    return found
