"""Four eyes: nothing is enrolled or removed before somebody else has approved this very request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import approval_pb2, audit_pb2, poi_pb2

from mesh.approvals.interceptor import WAITS, ApprovalInterceptor
from mesh.approvals.service import ApprovalServicer
from mesh.approvals.store import Approvals
from mesh.audit.methods import AUDITED
from mesh.errors import from_rpc
from mesh.interceptors.base import Rpc
from mesh.principal import CURRENT, Principal, Role
from tests.approvals.support import NAME, STORE, Eyes, wanted, who
from tests.audit.support import records
from tests.match_svc.support import STORE as PARENT
from tests.support import until
from tests.vault.conftest import Keys
from tests.vault.redis_bytes import everything

_ROOT = Path(__file__).resolve().parents[2]


def test_what_waits_is_audited() -> None:
    assert WAITS.keys() <= AUDITED.keys()


@pytest.mark.parametrize(
    ("role", "sees"), [(Role.ENROLLER, True), (Role.ADMIN, False), (Role.AUDITOR, False), (Role.OPERATOR, False)]
)
async def test_faces_that_wait_are_for_who_enrols(eyes: Eyes, keys: Keys, role: Role, sees: bool) -> None:
    """Admins and auditors see that somebody asks, and nobody's face."""
    await eyes.needs(enrolment=True)
    asked = approval_pb2.GetApprovalRequest(name=await eyes.asked(wanted()))
    servicer = ApprovalServicer(Approvals(eyes.redis, keys.vault()))

    token = CURRENT.set(Principal("person", "kim", frozenset({role}), frozenset({STORE})))
    try:
        found = await servicer.GetApproval(asked, None)
    finally:
        CURRENT.reset(token)

    assert found.state == approval_pb2.APPROVAL_STATE_PENDING
    assert found.HasField("request") is sees


async def test_a_store_that_does_not_want_it_asks_nobody(eyes: Eyes) -> None:
    await eyes.match.pois.CreatePoi(wanted())

    assert await eyes.people() == ["p1"]


async def test_an_enrolment_waits_for_a_second_person_and_is_then_done_once(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    name = await eyes.asked(wanted())
    assert await eyes.asked(wanted()) == name, "asking again is the same"
    assert await eyes.people() == []
    assert NAME.encode() not in everything(eyes.url), "it waits sealed"

    waiting = await eyes.approvals.GetApproval(approval_pb2.GetApprovalRequest(name=name))
    request = poi_pb2.CreatePoiRequest()
    assert waiting.request.Unpack(request)
    assert request.poi.display_name == NAME
    assert (waiting.requester.name, waiting.purpose, waiting.state) == (
        "ada", "case 7", approval_pb2.APPROVAL_STATE_PENDING,
    )  # fmt: skip

    approved = await eyes.approve(name)
    assert (approved.approver.name, approved.note) == ("bob", "seen")
    made = await eyes.match.pois.CreatePoi(wanted(), metadata=who("ada"))
    assert made.name == f"{PARENT}/pois/p1"
    assert await eyes.people() == ["p1"]

    used = await eyes.approvals.GetApproval(approval_pb2.GetApprovalRequest(name=name))
    assert used.state == approval_pb2.APPROVAL_STATE_USED
    assert not used.HasField("request")
    assert await eyes.asked(wanted()) == name, "a second time needs a second approval"


async def test_nobody_approves_what_they_asked_for_and_nobody_else_may_use_it(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    name = await eyes.asked(wanted())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approve(name, "ada")
    assert from_rpc(raised.value).reason == "SAME_PERSON"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approvals.Approve(approval_pb2.ApproveRequest(name=name))
    assert from_rpc(raised.value).reason == "ACTOR_REQUIRED"

    await eyes.approve(name)
    assert await eyes.asked(wanted(), "eve") != name
    assert await eyes.asked(wanted(poi_id="p2")) != name, "nor for anything else"
    assert await eyes.people() == []


@pytest.mark.parametrize(
    ("approver", "reason"),
    [
        (audit_pb2.AuditActor(kind=audit_pb2.ACTOR_KIND_CLIENT, name="a tool of hers"), "PERSON_REQUIRED"),
        (audit_pb2.AuditActor(kind=audit_pb2.ACTOR_KIND_SERVICE, name="spiffe://poi-mesh/s1/match"), "PERSON_REQUIRED"),
        (audit_pb2.AuditActor(kind=audit_pb2.ACTOR_KIND_PERSON, name="Ada", token_id="another"), "SAME_PERSON"),
    ],
)
async def test_a_second_pair_of_eyes_is_another_persons(
    eyes: Eyes, monkeypatch: pytest.MonkeyPatch, approver: audit_pb2.AuditActor, reason: str
) -> None:
    await eyes.needs(enrolment=True)
    name = await eyes.asked(wanted())
    monkeypatch.setattr("mesh.approvals.service.actor_of", lambda metadata: approver)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approve(name)

    assert from_rpc(raised.value).reason == reason


async def test_what_was_rejected_is_not_done_and_no_longer_kept(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    name = await eyes.asked(wanted())
    await eyes.approvals.Reject(approval_pb2.RejectRequest(name=name, note="another one"), metadata=who("bob"))

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.match.pois.CreatePoi(wanted(), metadata=who("ada"))
    assert from_rpc(raised.value).reason == "APPROVAL_REJECTED"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approve(name)
    assert from_rpc(raised.value).reason == "NOT_PENDING"
    assert not await eyes.redis.keys("poi:*:approval:*:request")


async def test_nobody_waits_for_ever(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True, valid_for=Duration(seconds=1))
    name = await eyes.asked(wanted())
    asked = approval_pb2.GetApprovalRequest(name=name)

    async def over() -> bool:
        return (await eyes.approvals.GetApproval(asked)).state == approval_pb2.APPROVAL_STATE_EXPIRED

    await until(over, "its end")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approve(name)
    assert from_rpc(raised.value).metadata == {"state": "EXPIRED"}
    assert not await eyes.redis.keys("poi:*:approval:*:request")
    await eyes.needs(enrolment=True, valid_for=Duration(seconds=3600))
    assert await eyes.asked(wanted()) == name
    assert (await eyes.approve(name)).state == approval_pb2.APPROVAL_STATE_APPROVED


async def test_that_nobody_else_is_needed_any_more_needs_somebody_else(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True, erasure=True)
    name = f"{PARENT}/approvalSettings"
    asked = approval_pb2.GetApprovalSettingsRequest(name=name)
    request = approval_pb2.UpdateApprovalSettingsRequest(
        approval_settings=approval_pb2.ApprovalSettings(name=name, valid_for=Duration(seconds=60)),
        update_mask=FieldMask(paths=["erasure", "valid_for"]),
    )

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approvals.UpdateApprovalSettings(request, metadata=who("ada"))
    told = from_rpc(raised.value)
    assert told.reason == "APPROVAL_REQUIRED"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.approve(told.metadata["approval"], "ada")
    assert from_rpc(raised.value).reason == "SAME_PERSON"
    assert (await eyes.approvals.GetApprovalSettings(asked)).erasure

    await eyes.approve(told.metadata["approval"])
    changed = await eyes.approvals.UpdateApprovalSettings(request, metadata=who("ada"))
    assert (changed.enrolment, changed.erasure, changed.valid_for.seconds) == (True, False, 60)
    await eyes.needs(enrolment=True, erasure=True)  # more may be asked for by anybody


async def test_who_asked_who_approved_and_what_was_done_is_on_record(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    await eyes.approve(await eyes.asked(wanted()))
    await eyes.match.pois.CreatePoi(wanted(), metadata=who("ada"))

    found = [one for one in await records(eyes.redis, STORE) if one.action.endswith("CreatePoi")]
    asked, *done = found
    assert (asked.code, asked.actor.name, asked.details["reason"]) == (
        "FAILED_PRECONDITION", "ada", "APPROVAL_REQUIRED",
    )  # fmt: skip
    assert [one.phase for one in done] == [audit_pb2.AUDIT_PHASE_BEGIN, audit_pb2.AUDIT_PHASE_END]


async def test_approvals_are_listed_in_pages(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    asked = [await eyes.asked(wanted(poi_id=f"p{number}")) for number in range(5)]
    await eyes.approve(asked[1])
    request = approval_pb2.ListApprovalsRequest(parent=PARENT, page_size=2)
    listed: list[str] = []
    while True:
        page = await eyes.approvals.ListApprovals(request)
        listed += [approval.name for approval in page.approvals]
        request.page_token = page.next_page_token
        if not request.page_token:
            break

    assert listed == asked[::-1]
    pending = approval_pb2.ListApprovalsRequest(parent=PARENT, state=approval_pb2.APPROVAL_STATE_PENDING)
    assert len((await eyes.approvals.ListApprovals(pending)).approvals) == 4


def test_without_a_vault_nothing_waits_and_the_server_says_so(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "match_svc"],
        env={"PATH": "", "PYTHONPATH": f"{_ROOT}:{_ROOT / 'gen'}", "POI_APPROVALS_REDIS_URL": redis_url},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("match_svc: POI_APPROVALS_REDIS_URL: needs POI_VAULT_KEYRING")


def test_the_interceptor_leaves_other_methods_alone() -> None:
    async def behaviour(request: Any, context: Any) -> Any: ...

    interceptor = ApprovalInterceptor(None)  # type: ignore[arg-type]
    assert interceptor.wrap(Rpc("poi.v1.PoiService", "GetPoi", False, False), behaviour) is behaviour
