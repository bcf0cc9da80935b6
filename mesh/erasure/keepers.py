"""Who is asked: services over the wire, and the requests that wait for a second person, which are here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import grpc
from poi.v1 import approval_pb2, erasure_pb2, erasure_pb2_grpc, poi_pb2

from mesh import names
from mesh.approvals.store import Approvals
from mesh.errors import MeshError, NotFound, from_rpc
from mesh.purging import purge
from mesh.redis import Redis
from mesh.traces import found

SERVICES: Final = ("alert", "match", "ingest", "history", "region")
"""In the order of erasing: alerts first, so that a match that is under way raises none; then the gallery, so that there
are no more matches; then what is in memory on the way to history; history; and what only history leads to."""
_PAGE: Final = 1000
_ERASE_PERSON: Final = "poi.v1.ErasureService/ErasePerson"


class Asked(Protocol):
    """Somebody who is asked. Raises MeshError where they do not answer."""

    async def find(self, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See TraceService."""

    async def erase(self, request: erasure_pb2.EraseTracesRequest) -> list[str]:
        """See TraceService: the obstacles."""


class Remote:
    """A service."""

    def __init__(self, channel: grpc.aio.Channel, find_seconds: float, erase_seconds: float) -> None:
        self._stub: erasure_pb2_grpc.TraceServiceAsyncStub = erasure_pb2_grpc.TraceServiceStub(channel)
        self._find_seconds, self._erase_seconds = find_seconds, erase_seconds

    async def find(self, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """Does not wait for a server that is not there."""
        try:
            return await self._stub.FindTraces(request, timeout=self._find_seconds, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    async def erase(self, request: erasure_pb2.EraseTracesRequest) -> list[str]:
        """Does not wait for a server that is not there."""
        try:
            answer = await self._stub.EraseTraces(request, timeout=self._erase_seconds, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        return list(answer.obstacles)


class ApprovalTraces:
    """Requests for the person that wait for a second person, or did: they hold photos."""

    def __init__(self, approvals: Approvals, redis: Redis) -> None:
        """`redis`: where they are."""
        self._approvals, self._redis = approvals, redis

    async def find(self, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """Those that still have their content, and how many there were about the person."""
        (store,) = names.parse_store(request.parent)
        waiting, about = await self._about(store, request.subject.poi)
        stays = erasure_pb2.Remainder(
            kind="approvals",
            count=about,
            reason="who asked for what, and who approved it: evidence, kept 30 days; what was asked for is removed",
        )
        return found(
            {"requests that wait for a second person": len(waiting)},
            names_of=[approval.name for approval in waiting],
            remainders=[stays] if about else (),
        )

    async def erase(self, request: erasure_pb2.EraseTracesRequest) -> list[str]:
        """They are withdrawn."""
        (store,) = names.parse_store(request.parent)
        for approval in (await self._about(store, request.subject.poi))[0]:
            await self._approvals.withdraw(approval.name)
        return await purge(self._redis, request.purge) if request.purge else []

    async def _about(self, store: str, poi: str) -> tuple[list[approval_pb2.Approval], int]:
        waiting, about = list[approval_pb2.Approval](), 0
        if not poi:
            return waiting, about
        async for listed in self._all(store):
            try:
                approval = await self._approvals.get(listed.name, whole=True)
            except NotFound:  # it went meanwhile
                continue
            if approval.action != _ERASE_PERSON and _is_about(approval, store, poi):
                about += 1
                if approval.HasField("request"):
                    waiting.append(approval)
        return waiting, about

    async def _all(self, store: str) -> AsyncIterator[approval_pb2.Approval]:
        before: float | None = None
        while True:
            page = await self._approvals.newest(store, before, _PAGE)
            for _, approval in page:
                if approval is not None:
                    yield approval
            if len(page) < _PAGE:
                return
            before = page[-1][0]


def explained(error: MeshError) -> str:
    """Why somebody has not done it, without what they said of the person."""
    return f"does not do it: {error.code.name} ({error.reason})"


def _is_about(approval: approval_pb2.Approval, store: str, poi: str) -> bool:
    if approval.resource == poi or approval.resource.startswith(f"{poi}/"):
        return True
    request: Any = poi_pb2.CreatePoiRequest()
    if not approval.HasField("request") or not approval.request.Unpack(request):
        return False
    return poi in (request.poi.name, f"{names.store(store)}/pois/{request.poi_id}")
