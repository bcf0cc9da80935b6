"""HistoryService, with neighbours that see a face on each photo, know a person of interest, and had visits to zones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import cv2
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, history_pb2, poi_pb2, region_pb2

from tests.fuzz import traces
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target
from tests.history_svc.neighbours import neighbours
from tests.support import detection, embedding, unit

STORE = "stores/store-1"
CAMERA, POI = f"{STORE}/cameras/Camera_01", f"{STORE}/pois/p1"
_running = AsyncExitStack()


async def _env() -> Mapping[str, str]:
    others = await _running.enter_async_context(neighbours())
    others.face = [embedding(unit(1), alignment=alignment) for alignment in common_pb2.Alignment.values()[1:3]]
    others.pois[POI] = poi_pb2.Poi(name=POI, references=[poi_pb2.Reference(embeddings=others.face)])
    now = int(time.time())
    others.visits = [
        region_pb2.Visit(
            name=f"{STORE}/visits/{number}",
            zone=f"{STORE}/scenes/s1/zones/{number % 2}",
            object_id=f"person {number % 3}",
            enter_time=Timestamp(seconds=now - 60 - number),
            last_seen_time=Timestamp(seconds=now - 50),
            cameras=[CAMERA],
            tracks=["cam:Camera_01:1"] if number % 2 else [],
        )
        for number in range(5)
    ]
    targets = ("POI_EMBED_TARGET", "POI_MATCH_TARGET", "POI_REGION_TARGET")
    return {**await nothing(), **dict.fromkeys(targets, others.target)}


def make() -> Target:
    """With two people who were seen just now."""
    now = int(time.time())
    hour = common_pb2.Interval(start_time=Timestamp(seconds=now - 3600), end_time=Timestamp(seconds=now + 60))
    face, image = embedding(unit(1)), bytes(cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1])
    seen = [detection(unit(1), at=0, object_id="1"), detection(unit(2), at=1, object_id="2"), detection(at=2)]
    for number, one in enumerate(seen):
        one.detect_time.seconds = now - 60 + number
    appearance = f"{STORE}/appearances/{seen[0].detection_id}"
    frame = history_pb2.FrameUpload(
        camera=CAMERA,
        capture_time=Timestamp(seconds=now - 59),
        kind=history_pb2.FRAME_KIND_ENTRY,
        image=image,
        appearances=[appearance],
    )
    query = history_pb2.AppearanceQuery(embedding=face)
    photos = history_pb2.Photos(images=[image, image])
    chosen = history_pb2.AppearanceSelection(query=query, interval=hour, cameras=[CAMERA], min_similarity=0.9)
    seeds: Seeds = {
        **traces.seeds(STORE),
        "AppendDetections": [
            history_pb2.AppendDetectionsRequest(parent=STORE, batch_id=1, detections=seen, frames=[frame]),
            history_pb2.AppendDetectionsRequest(parent=STORE, batch_id=2, detections=seen[:1]),
        ],
        "SearchAppearances": [
            history_pb2.SearchAppearancesRequest(
                parent=STORE, embedding=face, interval=hour, cameras=[CAMERA], min_similarity=-1, page_size=1
            ),
            history_pb2.SearchAppearancesRequest(
                parent=STORE, appearance=appearance, order=history_pb2.APPEARANCE_ORDER_TIME, page_size=1
            ),
            history_pb2.SearchAppearancesRequest(parent=STORE, poi=f"{STORE}/pois/p1"),
            history_pb2.SearchAppearancesRequest(parent=STORE, photos=photos),
        ],
        "GetJourney": [history_pb2.GetJourneyRequest(parent=STORE, query=query, interval=hour, min_similarity=0.1)],
        "ListAppearances": [
            history_pb2.ListAppearancesRequest(parent=STORE, interval=hour, cameras=[CAMERA], page_size=1)
        ],
        "GetAppearance": [history_pb2.GetAppearanceRequest(name=appearance)],
        "EraseAppearances": [
            history_pb2.EraseAppearancesRequest(parent=STORE, selection=chosen, validate_only=True),
            history_pb2.EraseAppearancesRequest(
                parent=STORE, appearances=history_pb2.AppearanceNames(names=[appearance]), request_id="r1"
            ),
        ],
        "GetErasure": [history_pb2.GetErasureRequest(name=f"{STORE}/erasures/r1")],
        "GetFrame": [history_pb2.GetFrameRequest(name=f"{STORE}/frames/{'0' * 32}")],
    }
    texts = (STORE, CAMERA, appearance, seen[0].detection_id, "Camera_01", "1", "2", face.model, f"{STORE}/pois/p1")
    contents = [face.vector, unit(2).tobytes(), b"\0" * 1024, b"\xff" * 1024, image, image[:40]]
    return Requests("history_svc", _env, seeds=seeds, texts=texts, contents=contents).target()
