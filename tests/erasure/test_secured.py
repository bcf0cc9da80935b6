"""With certificates, roles, encryption at rest and four eyes: who may erase, and who has said yes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import (
    alert_pb2_grpc,
    approval_pb2,
    approval_pb2_grpc,
    common_pb2,
    erasure_pb2,
    erasure_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
)

from mesh import channels
from mesh.auth import Role
from mesh.local import MODULES, Mesh
from mesh.local.secured import TOOL
from tests.alert_svc.support import candidate, raise_alerts
from tests.erasure.everything import Secrets, in_files, in_redis
from tests.erasure.support import DONE, Eraser, refusal
from tests.support import embedding, similar, unit
from tests.vault.conftest import Keys

pytestmark = pytest.mark.timeout(180)

STORE = "s1"
PARENT = f"stores/{STORE}"
WHY = (("purpose", "GDPR, Art. 17"),)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Mesh]:
    """All servers but that of the models."""
    keys = Keys(tmp_path / "vault")
    env = {"POI_DRAIN_SECONDS": "0", "POI_STORE": STORE, "POI_AUDIT_REQUIRE_PURPOSE": "true", **keys.environment}
    services = [name for name in MODULES if name != "embed"]
    whole = Mesh(tmp_path / "mesh", env=env, services=services, secure=True)
    approvals = {"POI_APPROVALS_REDIS_URL": whole.redis_url}
    for name in ("match", "history", "audit"):
        server = whole.services[name]
        whole.services[name] = type(server)(
            MODULES[name], whole.data_dir / name, {**whole.env, **approvals}, port=_port(server)
        )
    with whole:
        yield whole


def _port(server: Any) -> int:
    return int(server.target.rpartition(":")[2])


async def test_an_erasure_needs_the_role_and_a_second_person_and_its_receipt_names_both(secured: Mesh) -> None:
    face = unit(3000)
    async with _client(secured, "match", Role.ENROLLER, "eve") as match:
        pois: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(match)
        await pois.CreatePoi(_wanted("ann", face), metadata=WHY)
    await _alert(secured)
    name = Secrets()
    name.text("Ann Sealed", "display name")
    assert in_redis(secured.redis_url, name) == {}, "the alert's record and log neither"
    assert in_files(secured.data_dir, name) == {}
    async with (
        _client(secured, "audit", Role.ADMIN, "olga") as officer,
        _client(secured, "audit", Role.ADMIN, "pete") as second,
        _client(secured, "audit", Role.ENROLLER, "eve") as enroller,
        _client(secured, "match", Role.ENROLLER, "eve") as match,
        _client(secured, "match", Role.ADMIN, "olga") as direct,
    ):
        approvals: approval_pb2_grpc.ApprovalServiceAsyncStub = approval_pb2_grpc.ApprovalServiceStub(second)
        settings = approval_pb2.ApprovalSettings(name=f"{PARENT}/approvalSettings", enrolment=True, erasure=True)
        await approvals.UpdateApprovalSettings(approval_pb2.UpdateApprovalSettingsRequest(approval_settings=settings))
        settings.erasure = False
        loosened = approval_pb2.UpdateApprovalSettingsRequest(approval_settings=settings)
        assert (await refusal(approvals.UpdateApprovalSettings(loosened))).reason == "APPROVAL_REQUIRED"
        # An enrolment of hers waits, with a face in it.
        pois = poi_pb2_grpc.PoiServiceStub(match)
        more = poi_pb2.AddReferenceRequest(poi=f"{PARENT}/pois/ann", embedding=embedding(similar(face, 0.9, 3001)))
        assert (await refusal(pois.AddReference(more, metadata=WHY))).reason == "APPROVAL_REQUIRED"

        eraser, person = Eraser(officer, PARENT), erasure_pb2.ErasedPerson(poi=f"{PARENT}/pois/ann")
        look = erasure_pb2.ErasePersonRequest(parent=PARENT, person=person, validate_only=True)
        assert (await refusal(eraser.stub.ErasePerson(look))).reason == "PURPOSE_REQUIRED"
        assert (await refusal(Eraser(enroller, PARENT).stub.ErasePerson(look, metadata=WHY))).reason == "ROLE_MISSING"
        traces: erasure_pb2_grpc.TraceServiceAsyncStub = erasure_pb2_grpc.TraceServiceStub(direct)
        find = erasure_pb2.FindTracesRequest(parent=PARENT, subject=erasure_pb2.TraceSubject(poi=person.poi))
        assert (await refusal(traces.FindTraces(find))).reason == "ROLE_MISSING", "nobody but the eraser asks keepers"
        for wrong in ({"parent": "stores/s2"}, {"person": erasure_pb2.ErasedPerson(poi="stores/s2/pois/ann")}):
            fields: dict[str, Any] = {"parent": PARENT, "person": person, "validate_only": True, **wrong}
            foreign = eraser.stub.ErasePerson(erasure_pb2.ErasePersonRequest(**fields), metadata=WHY)
            assert (await refusal(foreign)).code is grpc.StatusCode.NOT_FOUND

        plan = await eraser.stub.ErasePerson(look, metadata=WHY, timeout=30)
        counts = {f"{one.keeper}: {one.kind}": one.count for one in plan.traces}
        assert counts["alert: alerts"] == 1
        assert counts["approvals: requests that wait for a second person"] == 1
        request = eraser.request(person, plan)
        waits = await refusal(eraser.stub.ErasePerson(request, metadata=WHY, timeout=60))
        assert waits.reason == "APPROVAL_REQUIRED"
        await approvals.Approve(approval_pb2.ApproveRequest(name=waits.metadata["approval"]))
        done = await eraser.stub.ErasePerson(request, metadata=WHY, timeout=60)

        assert done.state == DONE
        content = orjson.loads(done.receipt.content)
        assert (content["requested_by"]["name"], content["approved_by"]["name"]) == ("olga", "pete")
        assert content["requested_by"]["known_by"] == "PERSON"
        assert content["purpose"] == "GDPR, Art. 17"
        listed = await approvals.ListApprovals(approval_pb2.ListApprovalsRequest(parent=PARENT))
        (withdrawn,) = [one for one in listed.approvals if one.action.endswith("AddReference")]
        assert withdrawn.state == approval_pb2.APPROVAL_STATE_REJECTED
        secrets = Secrets()
        secrets.vector(face, "face")
        secrets.text("Ann Sealed", "display name")
        assert in_redis(secured.redis_url, secrets) == {}
        assert in_files(secured.data_dir, secrets) == {}
        kept = Secrets()
        kept.text("poi:{s1}:approval:" + withdrawn.name.rpartition("/")[2] + ":request", "what waited")
        assert in_redis(secured.redis_url, kept) == {}


async def _alert(secured: Mesh) -> None:
    made = candidate(PARENT, poi="ann")
    made.match.display_name = "Ann Sealed"
    async with channels.connect(
        secured.target("alert"),
        service="alert",
        tls=secured.secured.files("ingest"),  # type: ignore[union-attr]
    ) as ingest:
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(ingest)
        assert (await raise_alerts(stub, PARENT, made)).alerts[0].created


async def test_sealed_history_is_found_and_erased(secured: Mesh) -> None:
    faces = [similar(unit(3100), 0.9, 3101 + each) for each in range(4)]
    async with (
        _client(secured, "audit", Role.ADMIN, "olga") as officer,
        _client(secured, "history", Role.ANALYST, "anna") as analyst,
        channels.connect(
            secured.target("history"),
            service="history",
            tls=secured.secured.files("ingest"),  # type: ignore[union-attr]
        ) as ingest,
    ):
        writing: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(ingest)
        request = history_pb2.AppendDetectionsRequest(parent=PARENT)
        for number, face in enumerate(faces):
            seen = common_pb2.Detection(
                detection_id=f"{number:032x}", camera=f"{PARENT}/cameras/door", object_id="7", embedding=embedding(face)
            )
            seen.detect_time.FromNanoseconds(time.time_ns() - 10**9 + number * 10**8)
            request.detections.append(seen)
        name = ""
        async for answer in writing.AppendDetections(iter([request])):
            assert not answer.errors
            name = answer.stored[0].appearance
            break
        eraser, person = Eraser(officer, PARENT), erasure_pb2.ErasedPerson(appearances=[name])
        look = erasure_pb2.ErasePersonRequest(parent=PARENT, person=person, validate_only=True)

        plan = await eraser.stub.ErasePerson(look, metadata=WHY, timeout=30)
        done = await eraser.stub.ErasePerson(eraser.request(person, plan), metadata=WHY, timeout=60)

        assert (await eraser.check(done))["history: detections"] == 4
        reading: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(analyst)
        search = history_pb2.SearchAppearancesRequest(parent=PARENT, embedding=embedding(faces[0]))
        assert not (await reading.SearchAppearances(search, metadata=WHY)).hits


def _wanted(poi_id: str, face: Any) -> poi_pb2.CreatePoiRequest:
    return poi_pb2.CreatePoiRequest(
        parent=PARENT,
        poi_id=poi_id,
        poi=poi_pb2.Poi(
            display_name="Ann Sealed",
            purpose="test",
            legal_basis=poi_pb2.LEGAL_BASIS_CONSENT,
            expire_time=Timestamp(seconds=int(time.time()) + 3600),
        ),
        embeddings=[embedding(face)],
    )


@asynccontextmanager
async def _client(mesh: Mesh, service: str, role: Role, subject: str) -> AsyncIterator[grpc.aio.Channel]:
    assert mesh.secured is not None
    token = mesh.secured.token([role], subject)
    channel = channels.connect(mesh.target(service), service=service, tls=mesh.secured.files(TOOL), token=token)
    try:
        yield channel
    finally:
        await channel.close()
