"""grpc.health.v1, on the contract of grpcio-health-checking.

Not its servicer: there, the first of two watchers that leaves makes the other one deaf, and a watch never ends, so
that each shutdown would wait for the whole grace period. tests/mesh/test_health.py shows both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFound

SERVICE = "grpc.health.v1.Health"
_Response = health_pb2.HealthCheckResponse
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only


class Health(health_pb2_grpc.HealthServicer):
    """The status of each service by full name, and of the server as "": serving when all its services are.

    A part of a service ("poi.v1.HistoryService/storage") is there to be asked for by name: a service can do its work
    while a part of it needs somebody to look at it, so parts do not count for the server.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._open = False
        self._closed = False
        self._change = asyncio.Event()

    def set(self, service: str, serving: bool) -> None:
        """Say whether `service` can do its work; before `open` and after `shut`, nobody is told it can."""
        self._serving[service] = serving
        self._notify()

    def open(self) -> None:
        """From now on services are SERVING, unless set otherwise."""
        self._open = True
        self._notify()

    def shut(self) -> None:
        """From now on everything is NOT_SERVING."""
        self._open = False
        self._notify()

    def end_watches(self) -> None:
        """Let the watch streams end."""
        self._closed = True
        self._notify()

    def status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        """The HealthCheckResponse.ServingStatus of a service."""
        if service and service not in self._serving:
            return _Response.SERVICE_UNKNOWN
        if service:
            fine = self._serving[service]
        else:
            fine = all(serving for name, serving in self._serving.items() if "/" not in name)
        return _Response.SERVING if fine and self._open else _Response.NOT_SERVING

    @property
    def serving(self) -> bool:
        """Whether the server as a whole is."""
        return self.status("") == _Response.SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status now. NOT_FOUND for a service that is not ours."""
        status = self.status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise NotFound(request.service, reason="SERVICE_NOT_FOUND")
        return _Response(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and whenever it changes."""
        last: health_pb2.HealthCheckResponse.ServingStatus | None = None
        while True:
            change, closed, status = self._change, self._closed, self.status(request.service)
            if status != last:
                yield _Response(status=status)
                last = status
            if closed:
                return
            await change.wait()

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
