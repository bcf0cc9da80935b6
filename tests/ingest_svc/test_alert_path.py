"""From camera messages to alerts through real history, alert and ingest servers; who matches is the test's to say."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    common_pb2,
    history_pb2,
    history_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    match_pb2,
)

from clients.replay.publisher import Publisher
from mesh.channels import connect
from tests.support import unit

STORE = "stores/store-1"
ESCALATED, RAISED = alert_pb2.ALERT_EVENT_ESCALATED, alert_pb2.ALERT_EVENT_RAISED
FACE = base64.b64encode(unit(1).astype("<f4").tobytes()).decode()


class Gallery:
    """Matches every face with whom `people` says: MatchDetections, which is all that ingest calls."""

    def __init__(self) -> None:
        self.people: list[tuple[str, float]] = []

    async def match(self, requests: Any, context: Any) -> AsyncIterator[match_pb2.MatchDetectionsResponse]:
        """Best first."""
        async for request in requests:
            matches = [
                match_pb2.Match(
                    poi=f"{STORE}/pois/{poi}", similarity=value, threshold=0.45, severity=common_pb2.SEVERITY_MEDIUM
                )
                for poi, value in self.people
            ]
            yield match_pb2.MatchDetectionsResponse(
                batch_id=request.batch_id,
                results=[
                    match_pb2.DetectionMatches(detection_id=each.detection_id, matches=matches)
                    for each in request.detections
                ],
            )


@pytest.fixture
async def gallery() -> AsyncIterator[tuple[Gallery, str]]:
    server, people = grpc.aio.server(), Gallery()
    method = grpc.stream_stream_rpc_method_handler(
        people.match,
        request_deserializer=match_pb2.MatchDetectionsRequest.FromString,
        response_serializer=match_pb2.MatchDetectionsResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("poi.v1.MatchService", {"MatchDetections": method})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield people, f"127.0.0.1:{port}"
    await server.stop(0)


def frame(seconds: float, object_id: int = 1) -> bytes:
    box = {"x": 10, "y": 20, "width": 100, "height": 300}
    face = {"confidence": 0.99, "bounding_box_px": box, "reid": FACE}
    person = {"id": object_id, "bounding_box_px": box, "confidence": 0.9, "sub_objects": {"face": [face]}}
    return json.dumps({"timestamp": seconds, "objects": {"person": [person]}}).encode()


async def test_twins_better_matches_and_wrong_clocks_reach_the_alerts(mesh: Any, gallery: tuple[Gallery, str]) -> None:
    people, target = gallery
    running = await asyncio.to_thread(
        mesh, {"POI_MATCH_TARGET": target}, services=["history", "region", "alert", "ingest"]
    )
    publisher = Publisher(running.mqtt_url)
    async with (
        asyncio.timeout(150),
        connect(running.target("alert")) as alert_channel,
        connect(running.target("ingest")) as ingest_channel,
        connect(running.target("history")) as history_channel,
    ):
        alerts = alert_pb2_grpc.AlertServiceStub(alert_channel)
        ingest = ingest_pb2_grpc.IngestServiceStub(ingest_channel)
        stream: Any = alerts.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=STORE))
        await stream.read()
        sent = 0

        async def status() -> ingest_pb2.IngestStatus:
            request = ingest_pb2.GetIngestStatusRequest(name=f"{STORE}/ingestStatus")
            found: ingest_pb2.IngestStatus = await ingest.GetIngestStatus(request)
            return found

        async def until(reached: Callable[[ingest_pb2.IngestStatus], bool]) -> None:
            now = await status()
            while not reached(now):
                await asyncio.sleep(0.02)
                now = await status()

        async def see(camera: str, seconds: float, *matches: tuple[str, float]) -> None:
            nonlocal sent
            people.people, sent = list(matches), sent + 1
            publisher.publish(f"scenescape/data/camera/{camera}", frame(seconds))
            await until(lambda now: now.acknowledged_messages >= sent)

        async def told() -> alert_pb2.StreamAlertsResponse:
            while (response := await stream.read()).event == alert_pb2.ALERT_EVENT_HEARTBEAT:
                pass
            assert isinstance(response, alert_pb2.StreamAlertsResponse)
            return response

        await until(lambda now: now.connected)
        await asyncio.to_thread(publisher.connect)

        start = time.time() - 5
        await see("door", start, ("ann", 0.50), ("bea", 0.48))
        await see("door", start + 0.1, ("bea", 0.55), ("ann", 0.50))
        await see("door", start + 0.2, ("ann", 0.70), ("bea", 0.55))
        await see("door", start + 0.3, ("ann", 0.70), ("bea", 0.55))
        first, better = await told(), await told()
        assert (first.event, [each.poi for each in first.alert.runners_up]) == (RAISED, [f"{STORE}/pois/bea"])
        assert (better.event, better.alert.name) == (ESCALATED, first.alert.name)
        assert better.alert.match.similarity == pytest.approx(0.7)

        for camera, wrong in (("ahead", 86_400.0), ("behind", -50 * 365 * 86_400.0)):
            before = time.time()
            await see(camera, before + wrong, ("ann", 0.6))
            response = await told()
            assert response.event == RAISED
            assert before - 0.001 <= response.alert.detect_time.ToMilliseconds() / 1000 <= time.time()
            assert response.alert.create_time.ToMilliseconds() >= response.alert.detect_time.ToMilliseconds()
            # The same message again, as after a crash; then the next frames.
            await see(camera, before + wrong, ("ann", 0.6))
            for number in range(3):
                await see(camera, before + wrong + number / 10, ("ann", 0.6))
        stream.cancel()
        found = (await alerts.ListAlerts(alert_pb2.ListAlertsRequest(parent=STORE))).alerts
        assert sorted(alert.camera.rpartition("/")[2] for alert in found) == ["ahead", "behind", "door"]
        stub = history_pb2_grpc.HistoryServiceStub(history_channel)
        listed = await stub.ListAppearances(history_pb2.ListAppearancesRequest(parent=STORE))
        assert sorted(each.detection_count for each in listed.appearances) == [3, 3, 4]
        refused = (await ingest.ListRejections(ingest_pb2.ListRejectionsRequest(parent=STORE))).rejections
        assert [(each.topic.rpartition("/")[2], each.reason) for each in refused] == [
            ("behind", "CLOCK_SKEW"),
            ("ahead", "CLOCK_SKEW"),
        ]
    await asyncio.to_thread(publisher.close)
