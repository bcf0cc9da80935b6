"""A server whose methods are audited, and what is in its chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import grpc
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    match_pb2,
    match_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
)

from mesh import redis as connections
from mesh.audit import chain
from mesh.audit.service import SERVICE, AuditServicer
from mesh.errors import InvalidArgument, NotFound, to_status
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.principal import CURRENT, Principal
from mesh.redis import Redis
from mesh.server import Server
from mesh.settings import ServerSettings

STORE = "s1"
PARENT = f"stores/{STORE}"
ALERT = f"{PARENT}/alerts/a1"


class Settings(ServerSettings):
    service: ClassVar[str] = "alert"


class Alerts(alert_pb2_grpc.AlertServiceServicer):
    """Does nothing, and counts how often."""

    def __init__(self) -> None:
        self.acknowledged = 0

    async def AcknowledgeAlert(self, request: alert_pb2.AcknowledgeAlertRequest, context: Any) -> alert_pb2.Alert:
        self.acknowledged += 1
        if request.name.endswith("/gone"):
            raise NotFound(request.name)
        return alert_pb2.Alert(name=request.name)

    async def GetAlert(self, request: alert_pb2.GetAlertRequest, context: Any) -> alert_pb2.Alert:
        return alert_pb2.Alert(name=request.name)

    async def GetAlertSettings(self, request: Any, context: Any) -> alert_pb2.AlertSettings:
        return alert_pb2.AlertSettings(name=request.name)

    async def ExportAlert(
        self, request: alert_pb2.ExportAlertRequest, context: Any
    ) -> AsyncIterator[alert_pb2.ExportAlertResponse]:
        for _ in range(3):
            yield alert_pb2.ExportAlertResponse(data=b"piece")


class Pois(poi_pb2_grpc.PoiServiceServicer):
    """Enrols nobody; a row called bad is refused."""

    async def ImportPois(
        self, requests: AsyncIterator[poi_pb2.ImportPoisRequest], context: Any
    ) -> AsyncIterator[poi_pb2.ImportPoisResponse]:
        async for row in requests:
            response = poi_pb2.ImportPoisResponse(row_id=row.row_id)
            if row.row_id == "bad":
                response.error.CopyFrom(to_status(InvalidArgument("no face")))
            else:
                response.poi.name = f"{PARENT}/pois/{row.row_id}"
            yield response


class Matches(match_pb2_grpc.MatchServiceServicer):
    """Answers every batch."""

    async def MatchDetections(
        self, requests: AsyncIterator[match_pb2.MatchDetectionsRequest], context: Any
    ) -> AsyncIterator[match_pb2.MatchDetectionsResponse]:
        async for batch in requests:
            yield match_pb2.MatchDetectionsResponse(batch_id=batch.batch_id)


class Calling(Interceptor):
    """An authorisation that always finds the same one."""

    def __init__(self, principal: Principal | None) -> None:
        self._principal = principal

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        async def run(request: Any, context: Any) -> Any:
            CURRENT.set(self._principal)
            return await behaviour(request, context)

        return run


@dataclass
class Audited:
    """The running server, its clients, and Redis."""

    server: Server
    servicer: Alerts
    alerts: Any
    pois: Any
    match: Any
    audit: Any
    redis: Redis

    async def records(self, store: str = STORE) -> list[audit_pb2.AuditRecord]:
        return await records(self.redis, store)


@asynccontextmanager
async def audited(redis_url: str, principal: Principal | None = None, **settings: Any) -> AsyncIterator[Audited]:
    """A server that audits into this Redis; where there is a `principal`, authorisation finds that it calls."""
    client = connections.connect(redis_url)
    wanted = Settings(audit_redis_url=redis_url, drain_seconds=0.0, grace_seconds=1.0, **settings)
    server = Server(wanted, interceptors=[Calling(principal)])
    alerts: Any = cast(Any, Alerts)()  # the methods that it lacks are not called
    pois: Any = cast(Any, Pois)()
    match: Any = cast(Any, Matches)()
    server.add(alert_pb2_grpc.add_AlertServiceServicer_to_server, alerts, "poi.v1.AlertService")
    server.add(poi_pb2_grpc.add_PoiServiceServicer_to_server, pois, "poi.v1.PoiService")
    server.add(match_pb2_grpc.add_MatchServiceServicer_to_server, match, "poi.v1.MatchService")
    server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(client, server.draining), SERVICE)
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        yield Audited(
            server,
            alerts,
            alert_pb2_grpc.AlertServiceStub(channel),
            poi_pb2_grpc.PoiServiceStub(channel),
            match_pb2_grpc.MatchServiceStub(channel),
            audit_pb2_grpc.AuditServiceStub(channel),
            client,
        )
    await client.aclose()


async def records(redis: Redis, store: str = STORE) -> list[audit_pb2.AuditRecord]:
    """All records of a store, oldest first."""
    return [entry.record(store) async for page in chain.oldest_first(redis, store) for entry in page]


def a_record(action: str = "test.Happened") -> audit_pb2.AuditRecord:
    """One that can be appended."""
    made = audit_pb2.AuditRecord(action=action, phase=audit_pb2.AUDIT_PHASE_EVENT, code="OK")
    made.record_time.GetCurrentTime()
    return made
