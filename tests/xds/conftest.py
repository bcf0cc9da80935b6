"""A control plane that reads a file, Envoy, and servers whose answers tell which of them answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, match_pb2, match_pb2_grpc, region_pb2, region_pb2_grpc

from mesh import channels
from mesh.errors import NotFound
from mesh.local import Envoy, Program, Service, free_port
from mesh.server import Server
from mesh.settings import ServerSettings
from mesh.streams import until_drained

STORE = "stores/s1"


class ReplicaSettings(ServerSettings):
    """Settings of a replica."""

    service: ClassVar[str] = "match"


class Replica(
    match_pb2_grpc.MatchServiceServicer, alert_pb2_grpc.AlertServiceServicer, region_pb2_grpc.RegionServiceServicer
):
    """A server of three contracts; GetGalleryStatus answers with its number, as the gallery's revision."""

    def __init__(self, number: int, **settings: Any) -> None:
        self.number = number
        self.calls = 0
        self.metadata: Mapping[str, Any] = {}
        self.raised: list[alert_pb2.RaiseAlertsRequest] = []
        self.updated: list[str] = []
        """Of each batch of scene updates its store."""
        self.server = Server(ReplicaSettings(metrics_listen="", drain_seconds=0.3, **settings))
        self.server.add(match_pb2_grpc.add_MatchServiceServicer_to_server, self, "poi.v1.MatchService")
        self.server.add(alert_pb2_grpc.add_AlertServiceServicer_to_server, self, "poi.v1.AlertService")

        self.server.add(region_pb2_grpc.add_RegionServiceServicer_to_server, self, "poi.v1.RegionService")

    @property
    def address(self) -> str:
        return self.server.address

    async def GetGalleryStatus(self, request: Any, context: Any) -> match_pb2.GalleryStatus:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        if request.name.startswith("stores/nowhere"):
            raise NotFound(request.name)
        return match_pb2.GalleryStatus(name=request.name, revision=self.number)

    async def StreamAlerts(self, request: Any, context: Any) -> AsyncIterator[alert_pb2.StreamAlertsResponse]:
        async for number in until_drained(_numbers(), self.server.draining):
            yield alert_pb2.StreamAlertsResponse(alert=alert_pb2.Alert(name=f"{STORE}/alerts/{number}"))

    async def GetOccupancy(self, request: Any, context: Any) -> region_pb2.Occupancy:
        return region_pb2.Occupancy(name=request.name, zones=[region_pb2.ZoneOccupancy(count=self.number)])

    async def RecordSceneUpdates(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[region_pb2.RecordSceneUpdatesResponse]:
        async for request in until_drained(request_iterator, self.server.draining):
            self.updated.append(request.parent)
            yield region_pb2.RecordSceneUpdatesResponse(batch_id=request.batch_id)

    async def RaiseAlerts(self, request: Any, context: Any) -> alert_pb2.RaiseAlertsResponse:
        self.raised.append(request)
        return alert_pb2.RaiseAlertsResponse()


async def _numbers() -> AsyncIterator[int]:
    for number in count():
        yield number
        await asyncio.sleep(0.05)


StartReplica = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def replica() -> AsyncIterator[StartReplica]:
    """A factory of running replicas."""
    async with AsyncExitStack() as undo:

        async def start(number: int, **settings: Any) -> Replica:
            made = Replica(number, **settings)  # type: ignore[abstract]
            await undo.enter_async_context(made.server)
            return made

        yield start


@pytest.fixture(scope="session")
def control_port() -> int:
    """The same for all control planes: gRPC reads its bootstrap once a process."""
    return free_port()


class ControlPlane:
    """`python -m mesh.xds` and the file that it reads."""

    def __init__(self, service: Service, path: Path, gateway: str) -> None:
        self.service, self.path, self.gateway = service, path, gateway

    def write(self, **endpoints: Iterable[Replica | str]) -> None:
        """Exchange the file's content, as a whole."""
        listed = {
            name: [item if isinstance(item, str) else item.address for item in items]
            for name, items in endpoints.items()
        }
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(listed))
        draft.replace(self.path)


@pytest.fixture
def control_plane(
    tmp_path: Path, control_port: int, started: Callable[[Program], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ControlPlane]:
    """Starts a control plane with these endpoints and settings."""
    server = {
        "server_uri": f"127.0.0.1:{control_port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    (tmp_path / "grpc.json").write_text(json.dumps({"xds_servers": [server], "node": {"id": "test"}}))
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", str(tmp_path / "grpc.json"))

    def start(env: Mapping[str, str] | None = None, **endpoints: Iterable[Replica | str]) -> ControlPlane:
        path = tmp_path / "endpoints" / "endpoints.json"
        path.parent.mkdir()
        gateway = f"127.0.0.1:{free_port()}"
        settings = {
            "POI_XDS_SOURCE": "file",
            "POI_XDS_ENDPOINTS_FILE": str(path),
            "POI_XDS_GATEWAY_LISTEN": gateway,
            "POI_XDS_GATEWAY_CALLS_PER_SECOND": "100000",
            "POI_XDS_GATEWAY_BURST": "100000",
            "POI_DRAIN_SECONDS": "0",
        }
        service = Service("mesh.xds", tmp_path / "xds", {**settings, **(env or {})}, port=control_port)
        plane = ControlPlane(service, path, gateway)
        plane.write(**endpoints)
        started(service)
        return plane

    return start


@pytest.fixture
def envoy(tmp_path: Path, started: Callable[[Program], None]) -> Callable[..., Envoy]:
    """Starts Envoy on a control plane."""

    def start(plane: ControlPlane, **options: Any) -> Envoy:
        program = Envoy(tmp_path / "envoy", plane.service.target, plane.gateway, **options)
        started(program)
        return program

    return start


@pytest.fixture
async def channel() -> AsyncIterator[Callable[[str], grpc.aio.Channel]]:
    """A factory of channels as services use them."""
    async with AsyncExitStack() as undo:

        def connect(target: str) -> grpc.aio.Channel:
            made = channels.connect(target)
            undo.push_async_callback(made.close)
            return made

        yield connect


def gallery_status() -> match_pb2.GetGalleryStatusRequest:
    return match_pb2.GetGalleryStatusRequest(name=f"{STORE}/galleryStatus")


async def who(channel: grpc.aio.Channel, calls: int, patience: float | None = None) -> list[int]:
    """The numbers of the replicas that answered so many calls, one after the other."""
    stub = match_pb2_grpc.MatchServiceStub(channel)
    return [(await stub.GetGalleryStatus(gallery_status(), timeout=patience)).revision for _ in range(calls)]
