"""Tells the control plane where this server is, and whether it wants calls, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address

import grpc
import structlog
from grpc_health.v1 import health_pb2
from poi.v1 import registry_pb2, registry_pb2_grpc

from mesh import channels
from mesh.health import Health
from mesh.settings import ServerSettings, split_host_port

_log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 0.5
"""Between attempts: a control plane that was restarted hears of everybody before it tells anybody."""


def advertised(settings: ServerSettings, listening: str) -> str:
    """The address that others reach this server by. Raises ValueError when only its owner can know."""
    address = settings.advertise or listening
    if ip_address(split_host_port(address)[0].strip("[]")).is_unspecified:
        raise ValueError(f"{address} is every address of this machine: say which one others reach")
    return address


class Registration:
    """One server's entry at the control plane."""

    def __init__(self, settings: ServerSettings, address: str, health: Health, draining: asyncio.Event) -> None:
        self._settings, self._address = settings, address
        self._health, self._draining = health, draining

    async def run(self) -> None:
        """Stay registered, over any number of control planes' lives, until the server leaves."""
        channel = channels.connect(self._settings.control_plane, service="xds", tls=self._settings.tls)
        try:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            while not self._draining.is_set():
                try:
                    async for _ in stub.Register(self._words()):
                        pass
                except grpc.aio.AioRpcError as error:
                    # The details are the control plane's, or gRPC's own about the connection.
                    _log.warning("registration_lost", code=error.code().name, why=error.details())
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await channel.close()

    async def _words(self) -> AsyncIterator[registry_pb2.RegisterRequest]:
        """What there is to say: the state now, each change, and the leave."""
        # The server's own health, asked for as a client would; it ends with the server.
        watch = self._health.Watch(health_pb2.HealthCheckRequest(), None)  # type: ignore[arg-type]
        async for answer in watch:
            serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            state = registry_pb2.SERVER_STATE_SERVING if serving else registry_pb2.SERVER_STATE_NOT_SERVING
            leaving = self._draining.is_set()
            yield registry_pb2.RegisterRequest(
                service=self._settings.service,
                address=self._address,
                zone=self._settings.zone,
                state=registry_pb2.SERVER_STATE_LEAVING if leaving else state,
            )
            if leaving:
                return
