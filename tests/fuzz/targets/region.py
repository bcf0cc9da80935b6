"""RegionService."""

from __future__ import annotations

import time
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, region_pb2

from tests.fuzz import traces
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target

STORE = "stores/store-1"
SCENE, ZONE, CAMERA = f"{STORE}/scenes/s1", f"{STORE}/scenes/s1/zones/door", f"{STORE}/cameras/c1"


def _update(ago: int, *zones: str) -> region_pb2.SceneUpdate:
    now = int(time.time())
    person = region_pb2.SceneObject(object_id="p1", cameras=[CAMERA], tracks=["cam:c1:7"])
    for zone in zones:
        person.zones.add(zone_id=zone, enter_time=Timestamp(seconds=now - ago))
    return region_pb2.SceneUpdate(scene=SCENE, update_time=Timestamp(seconds=now - ago), objects=[person])


def make() -> Target:
    """With somebody in a zone."""
    now = int(time.time())
    hour = common_pb2.Interval(start_time=Timestamp(seconds=now - 3600), end_time=Timestamp(seconds=now))
    seeds: Seeds = {
        **traces.seeds(STORE, start=now - 60, end=now),
        "RecordSceneUpdates": [
            region_pb2.RecordSceneUpdatesRequest(parent=STORE, batch_id=number, updates=[_update(60 - number, *zones)])
            for number, zones in enumerate((["door"], ["door", "till"], ["till"], [], ["door"]))
        ],
        "ListVisits": [
            region_pb2.ListVisitsRequest(parent=STORE),
            region_pb2.ListVisitsRequest(
                parent=STORE,
                interval=hour,
                zones=[ZONE],
                object_ids=["p1"],
                cameras=[CAMERA],
                state=region_pb2.VISIT_STATE_CLOSED,
                page_size=1,
            ),
        ],
        "GetOccupancy": [region_pb2.GetOccupancyRequest(name=f"{SCENE}/occupancy", interval=hour)],
        "WatchVisits": [region_pb2.WatchVisitsRequest(parent=STORE, cursor="0-0", zones=[ZONE])],
    }
    texts = (STORE, SCENE, ZONE, CAMERA, f"{SCENE}/occupancy", "stores/s2", "door", "p1", "cam:c1:7", "cam:")
    return Requests("history_svc.region", partial(nothing), seeds=seeds, texts=texts).target()
