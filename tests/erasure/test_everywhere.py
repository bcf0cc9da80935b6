"""A person is erased: every byte of every file and of Redis is looked through, and the other one is as they were."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    delivery_pb2,
    delivery_pb2_grpc,
    erasure_pb2,
    feedback_pb2,
    feedback_pb2_grpc,
    history_pb2,
    poi_pb2,
)

from clients.replay import Publisher, Recording
from clients.replay.evidence import RECORDED_CLIPS, Clip
from demo import material
from demo.steps import Steps
from mesh import channels
from mesh.local import MODULES, Mesh, free_port
from tests.e2e.client import Client, until
from tests.e2e.store import Store, settings
from tests.e2e.story import expect
from tests.erasure.everything import Secrets, in_files, in_redis
from tests.erasure.support import DONE, Eraser, erasing, refusal
from tests.support import load_truth

pytestmark = pytest.mark.timeout(300)  # a whole store, on a machine with other work

STORE = "store-erased"
PARENT = f"stores/{STORE}"
WOMAN, MAN = f"{PARENT}/pois/woman", f"{PARENT}/pois/man"
NAME_OF_WOMAN = "Woman (case 2231)"
OBJECTS = {"Camera_01": ("2", "4"), "Camera_02": ("1", "9")}
"""Of the woman, as the recording's truth says."""
STAYS = ("personErasure", ":audit")
"""Keys with what stays by law, under names only: the receipt and the audit records."""


@pytest.fixture
def store(tmp_path: Path, shared_dir: Path, models_dir: Path) -> Iterator[Store]:
    """The recorded store."""
    scene, shortfall = material.find(STORE)
    assert not shortfall
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    clips = {camera: Clip(shared_dir / "media" / name) for camera, name in RECORDED_CLIPS.items()}
    env = {
        **settings(models_dir),
        "POI_STORE": STORE,
        "POI_ALERT_DELIVERY_ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "POI_ALERT_DELIVERY_MAX_ATTEMPTS": "1",
        "POI_ALERT_DELIVERY_BACKOFF_SECONDS": "0.05",
        "POI_AUDIT_ERASURE_RETRY_SECONDS": "1",
    }
    with Mesh(tmp_path / "mesh", env=env, services=MODULES) as mesh:
        yield Store(mesh, STORE, recording, expect(recording, load_truth(shared_dir)), scene.people, clips)


async def test_nothing_of_an_erased_person_is_left_anywhere(store: Store) -> None:
    mesh = store.mesh
    async with (
        Client(mesh, STORE) as client,
        Steps(mesh, STORE) as steps,
        erasing(mesh.target("audit"), STORE) as eraser,
        channels.connect(mesh.target("alert")) as alerts,
    ):
        photos = {person.poi_id: (await steps.enrol(person))[1] for person in store.people}
        await _targets(alerts, mesh)
        await store.play(frames=True)
        await steps.pictures(20)
        woman, man = [await _alerts(client, name) for name in (WOMAN, MAN)]
        assert len(woman) == 4
        assert len(man) == 2
        await _work(alerts, woman[0], man[0])
        await until(lambda: _dead_letters(alerts), "the webhook that is away has dead letters")
        secrets = await _secrets(store, client, photos["woman"])
        retained = await asyncio.to_thread(_retained, mesh.mqtt_url)
        assert sorted(retained) == ["alarms/pois/man", "alarms/pois/woman"]
        before = {what for held in in_redis(mesh.redis_url, secrets).values() for what in held}
        assert {"reference", "reference picture", "display name"} <= before
        before = {what for held in in_files(mesh.data_dir, secrets).values() for what in held}
        assert {"detection", "reference", "frame", "evidence picture", "display name"} <= before
        others = await _of_the_man(client, photos["man"])

        person = eraser.person("woman")
        plan = await eraser.plan(person)
        by_photo = await eraser.plan(erasure_pb2.ErasedPerson(photos=photos["woman"]))
        assert sorted(by_photo.appearances) == sorted(plan.appearances), "she need not be enrolled"
        blank = bytes(cv2.imencode(".jpg", np.zeros((200, 200, 3), np.uint8))[1])
        assert (await refusal(eraser.plan(erasure_pb2.ErasedPerson(photos=[blank])))).reason == "NO_FACE"
        done = await eraser.erase(eraser.request(person, plan))

        assert [(one.keeper, one.reason) for one in done.obstacles] == []
        assert done.state == DONE
        removed = await eraser.check(done)
        _check_counts(removed)
        assert removed == {f"{one.keeper}: {one.kind}": one.count for one in plan.traces}, "as the plan said"
        _check_remainders(done)
        assert mesh.broker is not None
        mesh.broker.save()
        assert sorted(await asyncio.to_thread(_retained, mesh.mqtt_url)) == ["alarms/pois/man"]
        assert in_redis(mesh.redis_url, secrets) == {}
        assert in_files(mesh.data_dir, secrets) == {}
        ids = Secrets()
        ids.text("pois/woman", "the person's name as a resource")
        assert in_redis(mesh.redis_url, ids, but=STAYS) == {}
        assert in_files(mesh.data_dir, ids, but=["redis"]) == {}, "Redis's own file holds the receipt and the records"
        await _check_nobody_finds(client, eraser, photos["woman"])
        assert await _of_the_man(client, photos["man"]) == others


async def _targets(alerts: grpc.aio.Channel, mesh: Mesh) -> None:
    """A webhook that is away, and the state of each person at the store's broker."""
    stub: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(alerts)
    away = delivery_pb2.WebhookTarget(
        url=f"http://127.0.0.1:{free_port()}/", secret="whsec_" + base64.b64encode(b"x" * 32).decode()
    )
    for target_id, target in {
        "away": delivery_pb2.Target(display_name="away", webhook=away),
        "broker": delivery_pb2.Target(
            display_name="broker", mqtt=delivery_pb2.MqttTarget(topic="alarms", retain_last_state=True)
        ),
        "about-her": delivery_pb2.Target(
            display_name="hers", webhook=away, filter=delivery_pb2.TargetFilter(pois=[WOMAN])
        ),
    }.items():
        await stub.CreateTarget(delivery_pb2.CreateTargetRequest(parent=PARENT, target_id=target_id, target=target))


async def _work(alerts: grpc.aio.Channel, hers: alert_pb2.Alert, his: alert_pb2.Alert) -> None:
    """What people do with alerts: a case file, feedback, a rule."""
    stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(alerts)
    for alert in (hers, his):
        request = alert_pb2.ExportAlertRequest(name=alert.name, actor="detective", purpose="case 2231")
        assert b"".join([piece.data async for piece in stub.ExportAlert(request)])
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub = feedback_pb2_grpc.FeedbackServiceStub(alerts)
    for alert in (hers, his):
        await feedback.ReportMatch(
            feedback_pb2.ReportMatchRequest(
                parent=PARENT,
                appearance=alert.appearance,
                poi=alert.match.poi,
                verdict=feedback_pb2.MATCH_VERDICT_CONFIRMED,
                actor="operator",
            )
        )
    settings = alert_pb2.AlertSettings(name=f"{PARENT}/alertSettings")
    settings.suppression_rules.add(pois=[WOMAN]).window.seconds = 1
    await stub.UpdateAlertSettings(alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings))


async def _alerts(client: Client, poi: str) -> list[alert_pb2.Alert]:
    return [one for one in await client.alerts() if one.match.poi == poi]


async def _dead_letters(alerts: grpc.aio.Channel) -> bool:
    stub: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(alerts)
    page = await stub.ListDeliveries(
        delivery_pb2.ListDeliveriesRequest(parent=f"{PARENT}/targets/away", page_size=1000)
    )
    dead = [one for one in page.deliveries if one.state == delivery_pb2.DELIVERY_STATE_DEAD]
    return len(dead) >= 6


async def _secrets(store: Store, client: Client, photos: tuple[bytes, ...]) -> Secrets:
    """All that is hers."""
    secrets = Secrets()
    secrets.text(NAME_OF_WOMAN, "display name")
    poi = await client.pois_service.GetPoi(poi_pb2.GetPoiRequest(name=WOMAN, view=poi_pb2.POI_VIEW_FULL))
    for reference in poi.references:
        shown = await client.pois_service.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=reference.name))
        secrets.picture(shown.image, "reference picture")
        for one in reference.embeddings:
            secrets.vector(one.vector, "reference")
    for photo in photos:
        secrets.picture(photo, "photo")
    for line in store.recording.lines:
        camera = line.topic.rpartition("/")[2]
        for person in line.payload.get("objects", {}).get("person", []) if camera in OBJECTS else ():
            for face in person.get("sub_objects", {}).get("face", []) if str(person["id"]) in OBJECTS[camera] else ():
                secrets.vector(base64.b64decode(face["metadata"]["reid"]["embedding_vector"]), "detection")
    found = await client.history.SearchAppearances(
        history_pb2.SearchAppearancesRequest(parent=PARENT, image=photos[0], page_size=1000)
    )
    assert len(found.hits) == 4
    for hit in found.hits:
        for frame in hit.appearance.frames:
            parts = client.history.GetFrame(history_pb2.GetFrameRequest(name=frame.name))
            what = "evidence picture" if frame.kind == history_pb2.FRAME_KIND_EVIDENCE else "frame"
            secrets.picture(b"".join([part.data async for part in parts]), what)
    return secrets


async def _of_the_man(client: Client, photos: tuple[bytes, ...]) -> dict[str, object]:
    """All that is known of him."""
    found = await client.history.SearchAppearances(
        history_pb2.SearchAppearancesRequest(parent=PARENT, image=photos[0], page_size=1000)
    )
    poi = await client.pois_service.GetPoi(poi_pb2.GetPoiRequest(name=MAN, view=poi_pb2.POI_VIEW_FULL))
    own = await _alerts(client, MAN)
    return {
        "appearances": sorted((one.appearance.name, one.appearance.detection_count) for one in found.hits),
        "person": poi,
        "alerts": sorted(one.name for one in own),
    }


def _check_counts(removed: dict[str, int]) -> None:
    for what, count in {
        "match: person": 1,
        "history: appearances": 4,
        "alert: alerts": 4,
        "alert: reports of matches": 1,
        "alert: retained MQTT messages": 1,
        "alert: rules and filters": 2,
    }.items():
        assert removed[what] == count, what
    for what in ("match: reference pictures", "history: frames and pictures", "alert: deliveries and dead letters"):
        assert removed[what] > 0, what


def _check_remainders(done: erasure_pb2.PersonErasure) -> None:
    (exported,) = [one for one in done.remainders if one.kind == "case file that was exported"]
    assert "by detective" in exported.detail
    assert {"audit records", "this receipt"} <= {one.kind for one in done.remainders}
    assert all(one.reason for one in done.remainders)


async def _check_nobody_finds(client: Client, eraser: Eraser, photos: tuple[bytes, ...]) -> None:
    for photo in photos:
        found = await client.history.SearchAppearances(
            history_pb2.SearchAppearancesRequest(parent=PARENT, image=photo, page_size=1000)
        )
        assert not found.hits
    assert not await _alerts(client, WOMAN)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await eraser.plan(eraser.person("woman"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def _retained(mqtt_url: str) -> list[str]:
    """Topics below `alarms/pois` with something retained."""
    topics: list[str] = []
    publisher = Publisher(mqtt_url)
    publisher.connect()
    publisher.subscribe("alarms/pois/+", lambda topic, payload: topics.append(topic))
    publisher.subscribe("nothing/here", lambda topic, payload: publisher.stop())
    publisher.publish_once("nothing/here", b"")
    publisher.work(5)
    publisher.close()
    return topics
