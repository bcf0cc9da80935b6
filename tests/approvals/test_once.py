"""An approval is good for one act, whatever is repeated, cut off, or comes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from poi.v1 import approval_pb2, erasure_pb2, poi_pb2

from mesh.approvals.interceptor import ApprovalInterceptor
from mesh.approvals.store import Approvals
from mesh.erasure.keepers import ApprovalTraces
from mesh.errors import FailedPrecondition, from_rpc
from mesh.interceptors.base import Rpc
from tests.approvals.support import Eyes, wanted, who
from tests.match_svc.support import STORE as PARENT
from tests.vault.conftest import Keys


async def test_a_removal_waits_as_well_and_what_fails_may_be_tried_again(eyes: Eyes) -> None:
    await eyes.match.pois.CreatePoi(wanted())
    await eyes.needs(erasure=True)
    gone = poi_pb2.DeletePoiRequest(name=f"{PARENT}/pois/nobody")
    removal = poi_pb2.DeletePoiRequest(name=f"{PARENT}/pois/p1")
    approvals = []
    for request in (gone, removal):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await eyes.match.pois.DeletePoi(request, metadata=who("ada"))
        approvals.append(from_rpc(raised.value).metadata["approval"])
        await eyes.approve(approvals[-1])

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.match.pois.DeletePoi(gone, metadata=who("ada"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await eyes.match.pois.DeletePoi(removal, metadata=who("ada"))

    states = [
        (await eyes.approvals.GetApproval(approval_pb2.GetApprovalRequest(name=name))).state for name in approvals
    ]
    assert states == [approval_pb2.APPROVAL_STATE_APPROVED, approval_pb2.APPROVAL_STATE_USED]
    assert await eyes.people() == []


async def test_an_import_is_sent_one_by_one(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)

    async def rows() -> AsyncIterator[poi_pb2.ImportPoisRequest]:
        yield poi_pb2.ImportPoisRequest(row_id="1", request=wanted())

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.match.pois.ImportPois(rows(), metadata=who("ada")).read()

    assert from_rpc(raised.value).reason == "APPROVAL_REQUIRED"
    assert await eyes.people() == []


async def test_of_two_at_once_one_uses_it(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    request = wanted(poi_id="")
    name = await eyes.asked(request)
    await eyes.approve(name)

    done = await asyncio.gather(
        *(eyes.match.pois.CreatePoi(request, metadata=who("ada")) for _ in range(4)), return_exceptions=True
    )

    assert len([one for one in done if isinstance(one, poi_pb2.Poi)]) == 1
    assert len(await eyes.people()) == 1


async def test_an_answer_that_was_lost_is_given_again(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    request = wanted(request_id="r-1")
    await eyes.approve(await eyes.asked(request))

    request.request_id = "r-2"  # whoever sends it again by hand has another one
    first = await eyes.match.pois.CreatePoi(request, metadata=who("ada"))
    again = await eyes.match.pois.CreatePoi(request, metadata=who("ada"))

    assert first.name == again.name
    request.request_id = "r-3"
    await eyes.asked(request)
    assert await eyes.people() == ["p1"]


async def test_a_repeat_that_fails_gives_no_approval_back(eyes: Eyes) -> None:
    await eyes.needs(enrolment=True)
    request = wanted(request_id="r-1")
    name = await eyes.asked(request)
    await eyes.approve(name)
    made = await eyes.match.pois.CreatePoi(request, metadata=who("ada"))
    await eyes.match.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await eyes.match.pois.CreatePoi(request, metadata=who("ada"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND, "it was made, and is gone"

    request.request_id = "r-2"
    assert await eyes.asked(request) == name, "nobody said yes to a second time"
    assert await eyes.people() == []


async def test_what_was_cut_off_may_have_been_done_and_needs_the_same_request_or_another_approval(
    eyes: Eyes, keys: Keys
) -> None:
    await eyes.needs(enrolment=True)
    request = wanted(request_id="r-1")
    name = await eyes.asked(request)
    await eyes.approve(name)
    approvals, context = Approvals(eyes.redis, keys.vault()), _Context()
    calls: list[str] = []

    async def cut_off(request: poi_pb2.CreatePoiRequest, context: Any) -> None:
        calls.append(request.request_id)
        raise asyncio.CancelledError

    behaviour = ApprovalInterceptor(approvals).wrap(Rpc("poi.v1.PoiService", "CreatePoi", False, False), cut_off)
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await behaviour(request, context)
    assert await eyes.redis.keys("poi:*:approval:*:request"), "the answer of a repeat is waited for"
    subject = erasure_pb2.TraceSubject(poi=f"{PARENT}/pois/p1")
    person = erasure_pb2.FindTracesRequest(parent=PARENT, subject=subject)
    keeper = ApprovalTraces(approvals, eyes.redis)
    assert [one.count for one in (await keeper.find(person)).traces] == [1]
    await keeper.erase(erasure_pb2.EraseTracesRequest(parent=PARENT, subject=subject, erasure="e"))
    assert not await eyes.redis.keys("poi:*:approval:*:request"), "it holds a face"
    assert not (await keeper.find(person)).traces
    request.request_id = "r-2"
    with pytest.raises(FailedPrecondition):
        await behaviour(request, context)

    assert calls == ["r-1", "r-1"]


class _Context:
    """Of a call of ada's."""

    def invocation_metadata(self) -> Any:
        return who("ada")

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> dict[str, Any]:
        return {}
