"""A server of the mesh with TLS and authorisation, in this process, and its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    match_pb2,
    match_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
)

from mesh import auth, channels
from mesh.auth import Principal, Role
from mesh.pki import Authority
from mesh.server import Server
from mesh.settings import ServerSettings, TlsFiles
from mesh.token import Accounts
from tests.support import PATIENCE

DAY = timedelta(hours=24)


class Settings(ServerSettings):
    """Of a server that is several services at once."""

    service: ClassVar[str] = "match"


class Servicer(
    alert_pb2_grpc.AlertServiceServicer,
    match_pb2_grpc.MatchServiceServicer,
    history_pb2_grpc.HistoryServiceServicer,
    poi_pb2_grpc.PoiServiceServicer,
):
    """Answers with what it was asked, and remembers who asked."""

    def __init__(self) -> None:
        self.callers: list[Principal | None] = []
        self.messages = 0

    async def GetAlert(self, request: alert_pb2.GetAlertRequest, context: Any) -> alert_pb2.Alert:
        self.callers.append(auth.current())
        return alert_pb2.Alert(name=request.name)

    async def AcknowledgeAlert(self, request: alert_pb2.AcknowledgeAlertRequest, context: Any) -> alert_pb2.Alert:
        return alert_pb2.Alert(name=request.name, acknowledgement=alert_pb2.AlertAction(actor=request.actor))

    async def StreamAlerts(
        self, request: alert_pb2.StreamAlertsRequest, context: Any
    ) -> AsyncIterator[alert_pb2.StreamAlertsResponse]:
        yield alert_pb2.StreamAlertsResponse(cursor="0")
        await asyncio.Event().wait()

    async def MatchDetections(
        self, requests: AsyncIterator[match_pb2.MatchDetectionsRequest], context: Any
    ) -> AsyncIterator[match_pb2.MatchDetectionsResponse]:
        async for request in requests:
            self.messages += 1
            yield match_pb2.MatchDetectionsResponse(batch_id=request.batch_id)

    async def SearchAppearances(
        self, request: history_pb2.SearchAppearancesRequest, context: Any
    ) -> history_pb2.SearchAppearancesResponse:
        return history_pb2.SearchAppearancesResponse()

    async def GetPoi(self, request: poi_pb2.GetPoiRequest, context: Any) -> poi_pb2.Poi:
        return poi_pb2.Poi(name=request.name)

    async def CreatePoi(self, request: poi_pb2.CreatePoiRequest, context: Any) -> poi_pb2.Poi:
        return request.poi

    async def ImportPois(
        self, requests: AsyncIterator[poi_pb2.ImportPoisRequest], context: Any
    ) -> AsyncIterator[poi_pb2.ImportPoisResponse]:
        async for row in requests:
            yield poi_pb2.ImportPoisResponse(row_id=row.row_id, poi=row.request.poi)


def a_servicer() -> Servicer:
    """One that has what is asked of it here, and no more: its classes want all of their methods."""
    kind: Any = Servicer
    made: Servicer = kind()
    return made


class Clients:
    """Clients of one server: services by certificate, people by token."""

    def __init__(self, pki: Authority, accounts: Accounts) -> None:
        self.pki, self.accounts = pki, accounts
        self.address = ""
        self._open: list[grpc.aio.Channel] = []

    def files(self, name: str, store: str = "s1") -> TlsFiles:
        return self.pki.issue(name, store, DAY).files

    def service(self, name: str, store: str = "s1") -> grpc.aio.Channel:
        """A channel of a service, or of a tool, of a store."""
        return self._opened(channels.connect(self.address, service="match", tls=self.files(name, store)))

    def person(
        self, *roles: Role, stores: tuple[str, ...] = ("s1",), subject: str = "alex", token: str = ""
    ) -> grpc.aio.Channel:
        """A channel of a person's tool."""
        made = token or self.accounts.issue(subject, roles, stores, timedelta(hours=1))
        return self._opened(channels.connect(self.address, service="match", tls=self.files("cli"), token=made))

    def _opened(self, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        self._open.append(channel)
        return channel

    async def close(self) -> None:
        for channel in self._open:
            await channel.close()


@asynccontextmanager
async def serving(tls: TlsFiles, jwks: Path | None, servicer: Servicer, **settings: Any) -> AsyncIterator[Server]:
    """The server; with authorisation where it is given keys."""
    given: Mapping[str, Any] = {
        "drain_seconds": 0.0,
        "grace_seconds": 0.5,
        "metrics_listen": "",
        "tls_certificate": tls.certificate,
        "tls_key": tls.key,
        "tls_ca": tls.ca,
        **({"auth": "required", "jwks": str(jwks)} if jwks else {}),
        **settings,
    }
    server = Server(Settings(**given))
    server.add(alert_pb2_grpc.add_AlertServiceServicer_to_server, servicer, "poi.v1.AlertService")
    server.add(match_pb2_grpc.add_MatchServiceServicer_to_server, servicer, "poi.v1.MatchService")
    server.add(history_pb2_grpc.add_HistoryServiceServicer_to_server, servicer, "poi.v1.HistoryService")
    server.add(poi_pb2_grpc.add_PoiServiceServicer_to_server, servicer, "poi.v1.PoiService")
    async with server:
        yield server


async def shut_out(channel: grpc.aio.Channel) -> None:
    """Calls through it fail because there is no connection, which is told at once, and not because time is up."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await alert_pb2_grpc.AlertServiceStub(channel).GetAlert(
            alert_pb2.GetAlertRequest(name="stores/s1/alerts/a"), wait_for_ready=False, timeout=PATIENCE
        )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
