"""AuditService, ApprovalService and ErasureService, with services that keep something of everybody."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import approval_pb2, audit_pb2, common_pb2, erasure_pb2, erasure_pb2_grpc, poi_pb2

from mesh import redis as connections
from mesh.approvals.store import Approvals
from mesh.audit.chain import Chain
from mesh.erasure.keepers import SERVICES
from mesh.erasure.looking import Finding
from mesh.erasure.receipts import Signer
from mesh.traces import found
from mesh.vault import Vault, masters
from mesh.vault.__main__ import main as vault
from tests.audit.support import a_record
from tests.fuzz.requests import Requests, Seeds, nothing
from tests.fuzz.target import Target

ID, STORE = "store-1", "stores/store-1"
POI, APPEARANCE = f"{STORE}/pois/p1", f"{STORE}/appearances/{'0' * 32}"
APPROVALS = [f"{STORE}/approvals/{digit * 32}" for digit in "012"]
_running: list[Any] = []


class _Keeper(erasure_pb2_grpc.TraceServiceServicer):
    """Each of the services: there is one thing of everybody who was not erased."""

    def __init__(self) -> None:
        self._erased: set[bytes] = set()

    async def FindTraces(self, request: erasure_pb2.FindTracesRequest, context: Any) -> erasure_pb2.FindTracesResponse:
        return _finding(request.subject) if _key(request.subject) not in self._erased else found({})

    async def EraseTraces(
        self, request: erasure_pb2.EraseTracesRequest, context: Any
    ) -> erasure_pb2.EraseTracesResponse:
        self._erased.add(_key(request.subject))
        return erasure_pb2.EraseTracesResponse()


def _key(subject: erasure_pb2.TraceSubject) -> bytes:
    return subject.SerializeToString(deterministic=True)


def _finding(subject: erasure_pb2.TraceSubject) -> erasure_pb2.FindTracesResponse:
    stays = erasure_pb2.Remainder(kind="copies", count=2, reason="of others", detail="since then")
    return found({"things": 1}, names_of=["one"], remainders=[stays], subject=subject)


def _plan_of(person: erasure_pb2.ErasedPerson) -> str:
    """The token of what ErasePerson shows of somebody first."""
    subject = erasure_pb2.TraceSubject(poi=person.poi, appearances=person.appearances)
    return Finding(subject, dict.fromkeys(SERVICES, _finding(subject))).token(STORE, person)


async def _env() -> Mapping[str, str]:
    keepers = grpc.aio.server()
    erasure_pb2_grpc.add_TraceServiceServicer_to_server(_Keeper(), keepers)
    port = keepers.add_insecure_port("127.0.0.1:0")
    await keepers.start()
    _running.append(keepers)
    directory = Path(os.environ["POI_FUZZ_DIR"])
    Signer.create(directory / "receipts.pem")
    ring, master = directory / "keyring.json", f"file:{directory / 'master'}"
    assert vault(["--keyring", str(ring), "--master", master, "init", "--store", ID]) == 0
    redis = connections.connect(os.environ["POI_REDIS_URL"])
    await Chain(redis, ID).append([a_record(f"test.{number}") for number in range(5)])
    approvals = Approvals(redis, Vault(ring, masters.load(master)))
    for name in APPROVALS:
        wanted = approval_pb2.Approval(name=name, action="poi.v1.PoiService/CreatePoi", resource=STORE, purpose="x")
        wanted.requester.name = "ann"
        await approvals.ask(wanted, poi_pb2.CreatePoiRequest(parent=STORE, poi_id="p1"), 3600)
    await redis.aclose()
    targets = {f"POI_{name.upper()}_TARGET": f"127.0.0.1:{port}" for name in SERVICES}
    return {
        **await nothing(),
        **targets,
        "POI_APPROVALS_REDIS_URL": os.environ["POI_REDIS_URL"],
        "POI_VAULT_KEYRING": str(ring),
        "POI_VAULT_MASTER": master,
        "POI_AUDIT_RECEIPT_KEY": str(directory / "receipts.pem"),
        "POI_AUDIT_ERASURE_RETRY_SECONDS": "1",
    }


def make() -> Target:
    """With records, requests that wait, a plan and an erasure."""
    interval = common_pb2.Interval()
    interval.end_time.GetCurrentTime()
    chosen = audit_pb2.AuditFilter(interval=interval, action="test", resource=STORE, codes=["OK"])
    people = [erasure_pb2.ErasedPerson(poi=POI), erasure_pb2.ErasedPerson(appearances=[APPEARANCE], photos=[b"x"])]
    plans = [erasure_pb2.ErasePersonRequest(parent=STORE, person=one, validate_only=True) for one in people]
    erasures = [
        erasure_pb2.ErasePersonRequest(parent=STORE, person=one, plan=_plan_of(one), request_id=f"r{number}")
        for number, one in enumerate(people)
    ]
    settings = approval_pb2.ApprovalSettings(
        name=f"{STORE}/approvalSettings", enrolment=True, valid_for=Duration(seconds=60)
    )
    seeds: Seeds = {
        "ListAuditRecords": [
            audit_pb2.ListAuditRecordsRequest(parent=STORE, page_size=1),
            audit_pb2.ListAuditRecordsRequest(parent=STORE, filter=chosen),
        ],
        "ExportAudit": [audit_pb2.ExportAuditRequest(parent=STORE, filter=chosen)],
        "VerifyChain": [
            audit_pb2.VerifyChainRequest(parent=STORE),
            audit_pb2.VerifyChainRequest(parent=STORE, known_sequence=3, known_hash="0" * 64),
        ],
        "ListApprovals": [approval_pb2.ListApprovalsRequest(parent=STORE, page_size=1)],
        "GetApproval": [approval_pb2.GetApprovalRequest(name=APPROVALS[0])],
        "Approve": [approval_pb2.ApproveRequest(name=APPROVALS[1], note="yes")],
        "Reject": [approval_pb2.RejectRequest(name=APPROVALS[2], note="no")],
        "GetApprovalSettings": [approval_pb2.GetApprovalSettingsRequest(name=settings.name)],
        "UpdateApprovalSettings": [
            approval_pb2.UpdateApprovalSettingsRequest(
                approval_settings=settings, update_mask=FieldMask(paths=["enrolment", "valid_for"])
            )
        ],
        "ErasePerson": [*plans, *erasures],
        "GetPersonErasure": [erasure_pb2.GetPersonErasureRequest(name=f"{STORE}/personErasures/{'0' * 32}")],
        "ListPersonErasures": [erasure_pb2.ListPersonErasuresRequest(parent=STORE, page_size=1)],
        "GetReceiptKey": [erasure_pb2.GetReceiptKeyRequest(name=f"{STORE}/receiptKey")],
    }
    texts = (STORE, "stores/s2", POI, APPEARANCE, *APPROVALS, settings.name, f"{STORE}/receiptKey", "OK", "test.1")
    caller = (("actor", "bob"), ("purpose", "GDPR, Art. 17"))
    return Requests("mesh.audit", _env, seeds=seeds, texts=texts, metadata=caller).target()
