"""Region events through a real broker: they and scene messages make the same visits."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from poi.v1 import ingest_pb2, ingest_pb2_grpc, region_pb2, region_pb2_grpc

from clients.replay.publisher import Publisher
from mesh.channels import connect
from tests.support import load_truth

Message = tuple[str, dict[str, Any]]
REGIONS = {"entrance": "5908cfbe", "aisle-3": "5908cfbf", "aisle-5": "5908cfc0", "checkout": "5908cfc1"}


def scene_messages(shared: Path) -> list[Message]:
    """Those of the recording."""
    with gzip.open(shared / "recordings" / "store.jsonl.gz", "rt") as lines:
        messages = [json.loads(line) for line in lines]
    return [(one["topic"], one["payload"]) for one in messages if "/regulated/scene/" in one["topic"]]


def region_events(messages: list[Message]) -> Iterator[Message]:
    """What the scene controller that sent these messages says besides, of each zone: both types, in its shape."""
    before: dict[str, dict[str, Any]] = {}
    for topic, payload in messages:
        scene = topic.rpartition("/")[2]
        for zone, region in REGIONS.items():
            now = {one["id"]: one for one in payload["objects"] if zone in one["regions"]}
            then = before.get(zone, {})
            before[zone] = now
            if now.keys() == then.keys():
                continue
            event = {
                "timestamp": payload["timestamp"],
                "scene_id": scene,
                "scene_name": "store",
                "region_id": region,
                "region_name": zone,
                "counts": {"person": len(now)},
                "objects": list(now.values()),
                "entered": [{"id": one, "category": "person", "confidence": 0.97} for one in now.keys() - then.keys()],
                "exited": [{"object": {**then[one], "regions": {}}, "dwell": 1.5} for one in then.keys() - now.keys()],
                "metadata": {"title": zone, "uuid": region, "area": "poly", "fromSensor": False},
            }
            yield f"scenescape/event/region/{scene}/{region}/count", event
            yield f"scenescape/event/region/{scene}/{region}/objects", event


@pytest.mark.parametrize("with_scene", [False, True])
async def test_events_give_the_true_dwell_times_alone_and_beside_scene_messages(
    mesh: Any, shared_dir: Path, with_scene: bool
) -> None:
    running = await asyncio.to_thread(mesh, services=["region", "ingest"])
    scenes = scene_messages(shared_dir)
    # In the order of time; at one time the controller sends the scene first.
    sent = sorted([*(scenes if with_scene else []), *region_events(scenes)], key=lambda one: one[1]["timestamp"])

    await play(running, sent)

    async with connect(running.target("region")) as channel:
        page = await region_pb2_grpc.RegionServiceStub(channel).ListVisits(
            region_pb2.ListVisitsRequest(parent="stores/store-1", page_size=1000)
        )
    start = 1_795_165_200.0
    found = sorted(
        (
            visit.object_id,
            visit.zone.rpartition("/")[2],
            visit.enter_time.ToMilliseconds() / 1000 - start,
            visit.exit_time.ToMilliseconds() / 1000 - start,
        )
        for visit in page.visits
    )
    wanted = sorted((one.object, one.zone, one.enter_s, one.exit_s) for one in load_truth(shared_dir).dwell)
    assert [one[:2] for one in found] == [one[:2] for one in wanted]
    for (*_, enter, exit), (*_, true_enter, true_exit) in zip(found, wanted, strict=True):
        assert abs(enter - true_enter) <= 0.5
        assert abs(exit - true_exit) <= 0.5


async def play(running: Any, sent: list[Message]) -> None:
    """Publishes the messages and waits until all of them are acknowledged and none is refused."""
    async with connect(running.target("ingest")) as channel:
        ingest = ingest_pb2_grpc.IngestServiceStub(channel)

        async def status() -> Any:
            return await ingest.GetIngestStatus(ingest_pb2.GetIngestStatusRequest(name="stores/store-1/ingestStatus"))

        def publish() -> None:
            publisher = Publisher(running.mqtt_url)
            publisher.connect()
            for topic, payload in sent:
                publisher.publish(topic, json.dumps(payload).encode())
            publisher.flush(60)
            publisher.close()

        async with asyncio.timeout(120):
            now = await status()
            while not now.connected:
                await asyncio.sleep(0.05)
                now = await status()
            await asyncio.to_thread(publish)
            while now.acknowledged_messages < len(sent):
                await asyncio.sleep(0.05)
                now = await status()
        assert now.rejections == 0
