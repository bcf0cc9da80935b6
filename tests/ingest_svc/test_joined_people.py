"""Boxes from camera to search: an appearance has the visits of its own person."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from poi.v1 import history_pb2, history_pb2_grpc, region_pb2, region_pb2_grpc

from mesh.channels import connect
from tests.ingest_svc.test_region_events import Message, play

LEFT, RIGHT = {"x": 10, "y": 20, "width": 100, "height": 300}, {"x": 400, "y": 20, "width": 100, "height": 300}
NEAR_LEFT, NEAR_RIGHT = LEFT | {"x": 25, "height": 280}, RIGHT | {"x": 385}


def messages(start: float) -> list[Message]:
    """Two people in front of one camera for two seconds, in two zones; each scene message follows a frame."""
    found: list[Message] = []
    for number in range(20):
        frame = iso(start + number / 10)
        people = [{"id": 1, "bounding_box_px": LEFT}, {"id": 2, "bounding_box_px": RIGHT}]
        found.append(("scenescape/data/camera/door", {"timestamp": frame, "objects": {"person": people}}))
        if number % 5 == 4:
            objects = [
                {"id": "ann", "regions": {"aisle": {}}, "camera_bounds": {"door": NEAR_RIGHT}},
                {"id": "bob", "regions": {"till": {}}, "camera_bounds": {"door": NEAR_LEFT}},
            ]
            scene = {"timestamp": iso(start + number / 10 + 0.04), "objects": objects}
            for item in objects:
                item["visibility"] = ["door"]
            found.append(("scenescape/regulated/scene/hall", scene))
    return found


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


async def test_an_appearance_has_the_visits_of_its_own_person(mesh: Any) -> None:
    running = await asyncio.to_thread(mesh, services=["match", "history", "region", "alert", "ingest"])

    await play(running, messages(time.time() - 5))

    async with connect(running.target("region")) as channel:
        page = await region_pb2_grpc.RegionServiceStub(channel).ListVisits(
            region_pb2.ListVisitsRequest(parent="stores/store-1")
        )
    assert {visit.object_id: list(visit.tracks) for visit in page.visits} == {
        "ann": ["cam:door:2"],
        "bob": ["cam:door:1"],
    }
    async with connect(running.target("history")) as channel:
        listed = await history_pb2_grpc.HistoryServiceStub(channel).ListAppearances(
            history_pb2.ListAppearancesRequest(parent="stores/store-1")
        )
    zones = {one.object_id: [visit.zone.rpartition("/")[2] for visit in one.visits] for one in listed.appearances}
    assert zones == {"1": ["till"], "2": ["aisle"]}
