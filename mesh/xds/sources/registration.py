"""Replicas that register themselves: a stream each, known while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import structlog
from poi.v1 import registry_pb2, registry_pb2_grpc

from mesh.errors import InvalidArgument, PermissionDenied
from mesh.principal import current
from mesh.streams import until_drained
from mesh.xds.model import Endpoint, Endpoints, Health
from mesh.xds.policy import SERVICES

SERVICE = "poi.v1.RegistryService"
_log = structlog.get_logger(__name__)
_HEALTH = {
    registry_pb2.SERVER_STATE_SERVING: Health.SERVING,
    registry_pb2.SERVER_STATE_NOT_SERVING: Health.NOT_SERVING,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    endpoint: Endpoint
    owner: object
    """The stream that said so last."""


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """The servers that are registered, as a source. A stream that breaks leaves its server known for a while: more
    often the network hiccuped, or the server is being restarted, than that callers could not reach it either."""

    def __init__(self, lease_seconds: float, settle_seconds: float, draining: asyncio.Event) -> None:
        """`settle_seconds`: how long after the start registrations are only collected."""
        self._lease, self._settle, self._draining = lease_seconds, settle_seconds, draining
        self._known: dict[tuple[str, str], _Entry] = {}
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncGenerator[Endpoints, None]:
        """See `Source`."""
        await asyncio.sleep(self._settle)
        while True:
            changed = self._changed
            found: dict[str, set[Endpoint]] = {}
            for (service, _), entry in self._known.items():
                found.setdefault(service, set()).add(entry.endpoint)
            yield {service: frozenset(endpoints) for service, endpoints in found.items()}
            await changed.wait()

    async def Register(
        self, request_iterator: AsyncIterator[registry_pb2.RegisterRequest], context: Any
    ) -> AsyncIterator[registry_pb2.RegisterResponse]:
        """Hear a server until it leaves."""
        owner = object()
        key: tuple[str, str] | None = None
        try:
            async for request in until_drained(request_iterator, self._draining):
                endpoint = _endpoint(request)
                if key not in (None, (request.service, request.address)):
                    raise InvalidArgument(violations=[("address", "a stream is about one server")])
                key = request.service, request.address
                if request.state == registry_pb2.SERVER_STATE_LEAVING:
                    self._forget(key)
                else:
                    self._put(key, _Entry(endpoint, owner))
                yield registry_pb2.RegisterResponse()
        finally:
            if key is not None:
                self._orphan(key, owner)

    def _put(self, key: tuple[str, str], entry: _Entry) -> None:
        known = self._known.get(key)
        self._known[key] = entry
        if known is None or known.endpoint != entry.endpoint:
            _log.info("registered", server=key[0], address=key[1], health=entry.endpoint.health.value)
            self._notify()

    def _forget(self, key: tuple[str, str]) -> None:
        if self._known.pop(key, None) is not None:
            _log.info("left", server=key[0], address=key[1])
            self._notify()

    def _orphan(self, key: tuple[str, str], owner: object) -> None:
        """The stream has ended; another one may have taken over already."""
        entry = self._known.get(key)
        if entry is None or entry.owner is not owner:
            return
        self._put(key, replace(entry, endpoint=replace(entry.endpoint, health=Health.UNKNOWN)))
        asyncio.get_running_loop().call_later(self._lease, self._expire, key, owner)

    def _expire(self, key: tuple[str, str], owner: object) -> None:
        entry = self._known.get(key)
        if entry is not None and entry.owner is owner:
            _log.warning("lease_expired", server=key[0], address=key[1])
            self._forget(key)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _endpoint(request: registry_pb2.RegisterRequest) -> Endpoint:
    """Raises InvalidArgument, PermissionDenied."""
    caller = current()
    if caller is not None and caller.service != request.service:
        raise PermissionDenied("a server registers itself alone", reason="ANOTHER_SERVICE")
    if request.service not in SERVICES:
        raise InvalidArgument(violations=[("service", f"none of {', '.join(SERVICES)}")])
    try:
        return Endpoint(request.address, _HEALTH.get(request.state, Health.UNKNOWN), request.zone)
    except ValueError as error:
        raise InvalidArgument(violations=[("address", str(error))]) from error
