"""Replicas from the EndpointSlices of Kubernetes: listed once, then watched.

kr8s brings the API server's address, credentials and their renewal. The watch is ours: kr8s 0.20 asks again at the same
version after 410 Gone, for ever, where the API wants a new list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeVar

import httpx
import kr8s.asyncio
import structlog
from kr8s import APITimeoutError, ServerError
from pydantic import BaseModel, Field, ValidationError

from mesh.xds import metrics
from mesh.xds.model import Endpoint, Endpoints, Health
from mesh.xds.policy import SERVICES
from mesh.xds.sources import BadSource

_log = structlog.get_logger(__name__)
_API = "discovery.k8s.io/v1"
_SERVICE = "kubernetes.io/service-name"
_PORT = "grpc"
_GONE = 410
_WATCH_SECONDS = 300
"""How long the API server keeps a watch; it ends it, and we go on where it stopped."""
M = TypeVar("M", bound=BaseModel)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class _Conditions(BaseModel):
    """Null means yes, of `ready`: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/."""

    ready: bool | None = None
    terminating: bool | None = None


class _Endpoint(BaseModel):
    addresses: list[str]
    conditions: _Conditions = _Conditions()
    zone: str | None = None


class _Port(BaseModel):
    name: str | None = None
    port: int | None = None


class _Metadata(BaseModel):
    name: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] = {}


class _Slice(BaseModel):
    metadata: _Metadata
    addressType: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(BaseModel):
    metadata: _Metadata
    items: list[_Slice]


class _Status(BaseModel):
    code: int = 0
    message: str = ""


class _Change(BaseModel):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: _Slice


class _Error(BaseModel):
    type: Literal["ERROR"]
    object: _Status


class _Event(BaseModel):
    event: Annotated[_Change | _Error, Field(discriminator="type")]


class _Expired(Exception):
    """The API server no longer knows the version that was asked for."""


def endpoints_of(slices: Iterable[_Slice]) -> Endpoints:
    """The replicas in all slices. One that is being ended is not among them: it gets no new calls."""
    found: dict[str, dict[str, Endpoint]] = {}
    for one in slices:
        service = one.metadata.labels.get(_SERVICE, "")
        port = next((item.port for item in one.ports or () if item.name == _PORT), None)
        if service not in SERVICES or port is None or one.addressType not in ("IPv4", "IPv6"):
            continue
        for endpoint in one.endpoints or ():
            if endpoint.conditions.terminating or not endpoint.addresses:
                continue
            health = Health.NOT_SERVING if endpoint.conditions.ready is False else Health.SERVING
            host = endpoint.addresses[0]
            address = f"[{host}]:{port}" if one.addressType == "IPv6" else f"{host}:{port}"
            known = found.setdefault(service, {})
            # While it moves from one slice to another it is in both, and they need not agree: ready somewhere is ready.
            if address not in known or health is Health.SERVING:
                known[address] = Endpoint(address, health, endpoint.zone or "")
    return {service: frozenset(endpoints.values()) for service, endpoints in found.items()}


class KubernetesSource:
    """The slices of our services in one namespace. The pod's account needs `list` and `watch` of endpointslices."""

    def __init__(self, namespace: str = "", url: str = "") -> None:
        """`namespace`: empty is the pod's own; `url`: of the API server, empty is what the pod is told."""
        self._namespace, self._url = namespace, url

    async def watch(self) -> AsyncGenerator[Endpoints, None]:
        """See `Source`. Raises kr8s' errors where the API refuses us, or is away before it was ever there."""
        api = await kr8s.asyncio.api(url=self._url or None, namespace=self._namespace or None)
        try:
            while True:
                listed = await self._list(api)
                slices = {item.metadata.name: item for item in listed.items}
                yield endpoints_of(slices.values())
                async with aclosing(self._changes(api, slices, listed.metadata.resourceVersion)) as changes:
                    async for _ in changes:
                        yield endpoints_of(slices.values())
                _log.info("kubernetes_listed_again")
        finally:
            # kr8s keeps it for the next one who asks, and has no word for closing it.
            if (session := api._session) is not None:
                await session.aclose()

    async def _list(self, api: Any) -> _List:
        async with api.call_api("GET", **self._where(api), timeout=httpx.Timeout(10.0)) as response:
            return _parsed(_List, response.content)

    async def _changes(self, api: Any, slices: dict[str, _Slice], version: str) -> AsyncGenerator[None, None]:
        """Keeps `slices` up to date, one step at each change. Ends when a new list is needed."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._watch_once(api, version)) as changes:
                    async for change in changes:
                        pause = _FIRST_PAUSE
                        version = change.object.metadata.resourceVersion
                        if change.type == "BOOKMARK":
                            continue
                        if change.type == "DELETED":
                            slices.pop(change.object.metadata.name, None)
                        else:
                            slices[change.object.metadata.name] = change.object
                        yield
                await asyncio.sleep(_FIRST_PAUSE)  # whoever ends each watch at once is not asked without a pause
            except _Expired:
                return
            except (httpx.TransportError, APITimeoutError, ServerError) as error:
                if isinstance(error, ServerError) and error.response is not None:
                    status = error.response.status_code
                    if status == _GONE:
                        return
                    if status < 500 and status != 429:
                        raise
                # What is known stays in use; what was missed meanwhile comes with the version asked for.
                _log.warning("kubernetes_away", why=str(error) or type(error).__name__, again_in_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _watch_once(self, api: Any, version: str) -> AsyncGenerator[_Change, None]:
        """The changes after `version` until the API server ends the watch."""
        wanted = self._where(api)
        wanted["params"] |= {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        patience = httpx.Timeout(10.0, read=_WATCH_SECONDS + 15.0)
        async with api.call_api("GET", **wanted, stream=True, timeout=patience) as response:
            async for line in response.aiter_lines():
                event = _parsed(_Event, b'{"event":' + line.encode() + b"}").event
                if isinstance(event, _Change):
                    yield event
                elif event.object.code == _GONE:
                    raise _Expired
                else:
                    raise ServerError(f"{event.object.code}: {event.object.message}")

    def _where(self, api: Any) -> dict[str, Any]:
        names = ",".join(SERVICES)
        return {
            "version": _API,
            "namespace": self._namespace or api.namespace,
            "url": "endpointslices",
            "params": {"labelSelector": f"{_SERVICE} in ({names})"},
        }


def _parsed(model: type[M], content: bytes) -> M:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        metrics.REJECTED.inc()
        problem = error.errors(include_url=False, include_input=False)[0]
        raise BadSource(f"EndpointSlices: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
