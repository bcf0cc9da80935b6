"""Every server looked at, and the main job done, with a client that has only reflection to go by."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import pytest
from google.rpc import error_details_pb2

from tests.e2e.buf import ask, buf, stream
from tests.e2e.store import Store
from tests.e2e.story import Window

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

SERVICES = {
    "embed": {"poi.v1.EmbeddingService": {"DetectFaces", "StreamFaces", "ListModels"}},
    "match": {
        "poi.v1.PoiService": {
            "CreatePoi",
            "GetPoi",
            "ListPois",
            "UpdatePoi",
            "DeletePoi",
            "AddReference",
            "GetReferenceImage",
            "ImportPois",
            "DeleteReference",
        },
        "poi.v1.MatchService": {"MatchFaces", "MatchDetections"},
    },
    "history": {
        "poi.v1.HistoryService": {
            "AppendDetections",
            "SearchAppearances",
            "ListAppearances",
            "GetAppearance",
            "GetFrame",
        },
    },
    "region": {"poi.v1.RegionService": {"RecordSceneUpdates", "ListVisits", "GetOccupancy", "WatchVisits"}},
    "alert": {
        "poi.v1.AlertService": {
            "RaiseAlerts",
            "StreamAlerts",
            "ListAlerts",
            "GetAlert",
            "AcknowledgeAlert",
            "ResolveAlert",
        },
        "poi.v1.FeedbackService": {"ReportMatch", "ListMatchReports", "SuggestThreshold"},
        "poi.v1.DeliveryService": {
            "CreateTarget",
            "GetTarget",
            "ListTargets",
            "UpdateTarget",
            "DeleteTarget",
            "TestTarget",
            "ListDeliveries",
            "ReplayDeliveries",
        },
    },
    "ingest": {"poi.v1.IngestService": {"GetIngestStatus", "ListCameras", "ListRejections"}},
}
"""The names that clients are written against."""


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
@pytest.mark.parametrize("name", SERVICES)
async def test_reflection(store: Store, name: str, protocol: str) -> None:
    url = f"http://{store.mesh.target(name)}"

    status, output, errors = await buf("--reflect-protocol", protocol, "--list-methods", url)

    assert status == 0, errors
    listed = set(output.split())
    for service, methods in SERVICES[name].items():
        assert {f"{service}/{method}" for method in methods} <= listed
    assert "grpc.health.v1.Health/Check" in listed


@pytest.mark.parametrize("name", SERVICES)
async def test_health(store: Store, name: str) -> None:
    for service in ["", *SERVICES[name]]:
        answer = await ask(store.mesh.target(name), "grpc.health.v1.Health/Check", {"service": service})
        assert answer == {"status": "SERVING"}


async def test_a_session(store: Store) -> None:
    """Enrol from a photo, stream alerts while the cameras send, look after one, search, look at the evidence."""
    match, alert, history = (store.mesh.target(name) for name in ("match", "alert", "history"))
    parent, window = f"stores/{store.store}", Window()
    man = f"{parent}/pois/man"

    await ask(match, "poi.v1.PoiService/DeletePoi", {"name": man})
    pois = await ask(match, "poi.v1.PoiService/ListPois", {"parent": parent})
    assert [poi["name"] for poi in pois["pois"]] == [f"{parent}/pois/woman"]
    photos = [base64.b64encode(photo).decode() for photo in store.photos["man"]]
    poi = {
        "displayName": "Man with the beard",
        "severity": "SEVERITY_HIGH",
        "purpose": "theft on 3 November",
        "legalBasis": "LEGAL_BASIS_LEGITIMATE_INTERESTS",
        "enrolledBy": "ann",
        "expireTime": _iso(round(time.time()) + 86400),
    }
    created = await ask(
        match, "poi.v1.PoiService/CreatePoi", {"parent": parent, "poiId": "man", "poi": poi, "images": photos}
    )
    assert created["name"] == man
    assert len(created["references"]) == len(photos)

    async with stream(alert, "poi.v1.AlertService/StreamAlerts", {"parent": parent}) as alerts:
        responses = alerts.responses()
        assert (await anext(responses))["event"] == "ALERT_EVENT_HEARTBEAT"
        playing = asyncio.create_task(store.play(window=window, frames=True))
        raised = await _raised(responses, 6)
        outcome = await playing

    assert [one["name"] for one in raised] == [one.name for one in outcome.streamed]
    assert {one["match"]["poi"] for one in raised} == {man, f"{parent}/pois/woman"}
    assert {one["match"]["severity"] for one in raised if one["match"]["poi"] == man} == {"SEVERITY_HIGH"}
    store.expected.check(outcome)

    name = next(one["name"] for one in raised if one["match"]["poi"] == man)
    done = await ask(alert, "poi.v1.AlertService/AcknowledgeAlert", {"name": name, "actor": "ann", "note": "on my way"})
    assert done["state"] == "ALERT_STATE_ACKNOWLEDGED"

    interval = {"startTime": _iso(window.start), "endTime": _iso(window.start + 60)}
    found = await ask(
        history, "poi.v1.HistoryService/SearchAppearances", {"parent": parent, "poi": man, "interval": interval}
    )
    hits = [hit["appearance"] for hit in found["hits"]]
    assert sorted((hit["camera"].rpartition("/")[2], hit["objectId"]) for hit in hits) == sorted(
        store.expected.truth.people["man"].appearances
    )
    frame = hits[0]["frames"][0]["name"]
    part = await ask(history, "poi.v1.HistoryService/GetFrame", {"name": frame})
    jpeg = np.frombuffer(base64.b64decode(part["data"]), np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR) is not None


async def test_a_wrong_request_names_its_fields(store: Store) -> None:
    url = f"http://{store.mesh.target('match')}/poi.v1.PoiService/CreatePoi"

    status, _, errors = await buf(url, request={"parent": "shop", "poi": {"displayName": "Jo"}})

    assert status != 0
    told = json.loads(errors)
    assert told["code"] == "invalid_argument"
    details = {detail["type"]: base64.b64decode(detail["value"] + "==") for detail in told["details"]}
    assert error_details_pb2.ErrorInfo.FromString(details["google.rpc.ErrorInfo"]).domain == "poi-mesh"
    wrong = error_details_pb2.BadRequest.FromString(details["google.rpc.BadRequest"])
    assert [violation.field for violation in wrong.field_violations] == ["", "parent"]
    assert told["message"].startswith("either 1 to 10 images or 1 to 10 embeddings are needed; parent: ")


async def _raised(responses: Any, count: int) -> list[Any]:
    raised: list[Any] = []
    async with asyncio.timeout(150):
        async for response in responses:
            if response["event"] == "ALERT_EVENT_RAISED":
                raised.append(response["alert"])
            if len(raised) == count:
                break
    return raised


def _iso(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat()
