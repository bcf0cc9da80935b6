"""Two servers of every service under load, one after the other killed with SIGKILL, for two minutes."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import (
    alert_pb2,
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
    region_pb2,
)

from clients.replay import CameraTraffic, Mixed, Replay, SceneTraffic
from clients.replay.synthetic import People
from demo import material
from mesh import channels, names
from mesh.local import Service
from tests.e2e.client import Client, Follower, until
from tests.e2e.replicas import Replicated, replicated
from tests.e2e.story import once
from tests.support import embedding

STORE = "store-replicas"
PARENT = names.store(STORE)
SECONDS = float(__import__("os").environ.get("S", "120"))
DOWN_S, UP_S = 1.0, 1.0
ENROLLED = 40
CAMERAS, FACES, RATE = 10, 4, 7.5
"""300 detections a second, each with a face."""


@pytest.mark.timeout(600)
async def test_no_alert_is_missing_and_none_comes_twice_while_servers_are_killed_for_two_minutes(
    tmp_path: Path, models_dir: Path
) -> None:
    people = People(seed=77)
    cameras = CameraTraffic(
        cameras=CAMERAS, faces=FACES, rate=RATE, seconds=SECONDS, people=people,
        enrolled=ENROLLED, enrolled_share=0.3, bodies=False,
    )  # fmt: skip
    scene = SceneTraffic(people=12)
    photo = material.find(STORE)[0].people[0].photos[0]
    env = {"POI_STORE": STORE, "POI_MODELS_DIR": str(models_dir), "POI_HEARTBEAT_SECONDS": "0.4"}
    started = int(time.time())
    now = common_pb2.Interval(start_time=Timestamp(seconds=started), end_time=Timestamp(seconds=started + 600))
    with replicated(tmp_path, env) as mesh:
        async with Client(mesh, STORE) as client:
            await enrol(client.pois_service, people)
            alerts, visits = client.follow_alerts(), client.follow_visits()
            over = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                following = [tasks.create_task(follower.run()) for follower in (alerts, visits)]
                await asyncio.gather(alerts.until_live(), visits.until_live())
                killing = tasks.create_task(kill_in_turn(mesh.all_servers, over))
                looking = tasks.create_task(look_at_photos(mesh.target("embed"), photo, over))
                replay = Replay(Mixed([cameras, scene]), mesh.mesh.mqtt_url)
                await asyncio.to_thread(replay.run)
                over.set()
                killed, photos = await killing, await looking
                await all_is_used(mesh, client, now)
                await until(lambda: everybody_left(visits, scene), "all visits have ended", 90)
                await asyncio.gather(alerts.until_silent(), visits.until_silent())
                for task in following:
                    task.cancel()
            stored = await client.appearances(now)
            listed = await client.alerts()

    tracks = {(track.camera, str(track.object_id)): track for track in cameras.tracks}
    appearances = {one.name: (last(one.camera), one.object_id) for one in stored}
    assert sorted(appearances.values()) == sorted(tracks), "history has each track once"

    wanted = sorted((key, f"p{track.person}") for key, track in tracks.items() if track.enrolled)
    raised = [one.alert for one in alerts.seen if one.event == alert_pb2.ALERT_EVENT_RAISED]
    for found in (raised, listed):
        assert sorted((appearances[one.appearance], last(one.match.poi)) for one in found) == wanted
    assert len(wanted) > 100

    told = defaultdict(list)
    for one in visits.seen:
        told[one.visit.object_id, last(one.visit.zone)].append(one)
    assert {stay: once(events) for stay, events in told.items()} == {
        (stay.object_id, stay.zone): [region_pb2.VISIT_EVENT_ENTERED, region_pb2.VISIT_EVENT_EXITED]
        for stay in scene.stays
    }

    assert photos >= 10
    assert killed.keys() == {server.name for server in mesh.all_servers}
    assert sum(killed.values()) > len(mesh.all_servers), "one after the other, and then again"
    assert alerts.interruptions


async def enrol(pois: poi_pb2_grpc.PoiServiceAsyncStub, people: People) -> None:
    for number in range(ENROLLED):
        poi = poi_pb2.Poi(
            display_name=f"Person {number}",
            severity=common_pb2.SEVERITY_MEDIUM,
            purpose="test",
            legal_basis=poi_pb2.LEGAL_BASIS_CONSENT,
            enrolled_by="test",
            expire_time=Timestamp(seconds=int(time.time()) + 3600),
        )
        await pois.CreatePoi(
            poi_pb2.CreatePoiRequest(
                parent=PARENT, poi_id=f"p{number}", poi=poi, embeddings=[embedding(people.enrolment(number))]
            )
        )


async def kill_in_turn(servers: Sequence[Service], over: asyncio.Event) -> Counter[str]:
    """One is down at a time, in an order by chance; how often each was killed."""
    chance = random.Random(4711)
    killed: Counter[str] = Counter()
    while True:
        for server in chance.sample(servers, len(servers)):
            await pause(over, UP_S)
            if over.is_set():
                return killed
            server.kill()
            killed[server.name] += 1
            await pause(over, DOWN_S)
            await asyncio.to_thread(server.start)


async def pause(over: asyncio.Event, duration: float) -> None:
    try:
        async with asyncio.timeout(duration):
            await over.wait()
    except TimeoutError:
        pass


async def look_at_photos(target: str, photo: bytes, over: asyncio.Event) -> int:
    """Faces of a photo, again and again: every call must succeed. How many did."""
    done = 0
    async with channels.connect(target) as channel:
        embed: embedding_pb2_grpc.EmbeddingServiceAsyncStub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        while not over.is_set():
            found = await embed.DetectFaces(embedding_pb2.DetectFacesRequest(parent=PARENT, image=photo), timeout=60)
            assert found.faces
            done += 1
            await pause(over, 0.5)
    return done


async def everybody_left(visits: Follower[region_pb2.WatchVisitsResponse], scene: SceneTraffic) -> bool:
    """The last ones by the scene's silence."""
    return sum(one.event == region_pb2.VISIT_EVENT_EXITED for one in visits.seen) >= len(scene.stays)


async def all_is_used(mesh: Replicated, client: Client, now: common_pb2.Interval) -> None:
    """Returns when history has every detection, and both ingest servers have acknowledged all that they took."""
    wanted = round(SECONDS * RATE) * CAMERAS * FACES

    async def stored() -> bool:
        return sum(one.detection_count for one in await client.appearances(now)) == wanted

    async def acknowledged(ingest: ingest_pb2_grpc.IngestServiceAsyncStub) -> bool:
        status = await ingest.GetIngestStatus(ingest_pb2.GetIngestStatusRequest(name=f"{PARENT}/ingestStatus"))
        return bool(status.connected and not status.pending_messages)

    await until(stored, "history has every detection", 180)
    for server in mesh.servers("ingest"):
        async with channels.connect(server.target) as channel:
            ingest: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
            await until(partial(acknowledged, ingest), f"{server.name} has acknowledged everything", 90)


def last(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]
