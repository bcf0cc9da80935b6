"""The aggregated discovery service over gRPC: one stream a client, state of the world or delta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest

from mesh.errors import InvalidArgument
from mesh.streams import until_drained
from mesh.xds import metrics
from mesh.xds.snapshot import ASKED_AGAIN, ORDER, SHORT, Board, Snapshots
from mesh.xds.subscriptions import AnySubscription, Delta, StateOfTheWorld

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
ENVOY, GRPC = "envoy", "grpc"
"""The kinds of client, which are given different snapshots."""

_log = structlog.get_logger(__name__)


def kind_of(node: Node) -> str:
    """gRPC's client libraries name themselves "gRPC Python" and the like."""
    return GRPC if node.user_agent_name.startswith("gRPC") else ENVOY


class AdsServicer:
    """Serves the snapshots of a board."""

    def __init__(self, board: Board, draining: asyncio.Event) -> None:
        self._board = board
        self._draining = draining

    async def state_of_the_world(self, requests: AsyncIterator[DiscoveryRequest], _: Any) -> AsyncIterator[Any]:
        """StreamAggregatedResources."""
        async for response in self._serve(requests, StateOfTheWorld):
            yield response

    async def delta(self, requests: AsyncIterator[DeltaDiscoveryRequest], _: Any) -> AsyncIterator[Any]:
        """DeltaAggregatedResources."""
        async for response in self._serve(requests, Delta):
            yield response

    async def _serve(self, requests: AsyncIterator[Any], make: type[AnySubscription]) -> AsyncIterator[Any]:
        stream = _Stream(make)
        news = asyncio.Event()

        async def read() -> None:
            async for request in until_drained(requests, self._draining):
                stream.heard(request)
                news.set()

        reader = asyncio.create_task(read())
        reader.add_done_callback(lambda _: news.set())
        try:
            with self._board.watched(news):
                while not reader.done():
                    for response in stream.due(self._board.current):
                        yield response
                    await news.wait()
                    news.clear()
                reader.result()
        finally:
            reader.cancel()
            stream.close()


class _Stream:
    """The subscriptions of one client."""

    def __init__(self, make: type[AnySubscription]) -> None:
        self._make = make
        self._subscriptions: dict[str, AnySubscription] = {}
        self._client = ""
        self._node = ""

    def heard(self, request: Any) -> None:
        """Take a request in. Raises InvalidArgument for a first one without a node."""
        if not self._client:
            if request.node is None:
                raise InvalidArgument(violations=[("node", "the first request of a stream says who asks")])
            self._client, self._node = kind_of(request.node), request.node.id
            metrics.STREAMS.labels(self._client, self._make.__name__).inc()
        kind = request.type_url
        if kind not in SHORT:  # nothing of that type is here, and nobody waits for it
            return
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            subscription = self._subscriptions[kind] = self._make(kind)
        before = subscription.refused
        refusal = subscription.heard(request)
        gauge = metrics.REFUSING.labels(self._client, SHORT[kind])
        gauge.inc((subscription.refused is not None) - (before is not None))
        if refusal is not None:
            metrics.NACKS.labels(self._client, SHORT[kind]).inc()
            _log.error(
                "configuration_refused",
                client=self._client,
                node=self._node,
                type=SHORT[kind],
                version=refusal.version,
                detail=refusal.detail,
            )

    def due(self, snapshots: Snapshots | None) -> list[Any]:
        """What brings the client up to date, in the order in which it must hear it."""
        snapshot = snapshots.get(self._client) if snapshots is not None else None
        if snapshot is None:
            return []
        responses = []
        for kind in ORDER:
            subscription = self._subscriptions.get(kind)
            if subscription is None:
                continue
            response = subscription.due(snapshot.typed(kind))
            if response is None:
                continue
            responses.append(response)
            metrics.RESPONSES.labels(self._client, SHORT[kind]).inc()
            dependent = self._subscriptions.get(ASKED_AGAIN.get(kind, ""))
            if dependent is not None:
                dependent.again()
        return responses

    def close(self) -> None:
        """The stream has ended."""
        if self._client:
            metrics.STREAMS.labels(self._client, self._make.__name__).dec()
        for kind, subscription in self._subscriptions.items():
            if subscription.refused is not None:
                metrics.REFUSING.labels(self._client, SHORT[kind]).dec()


def add_to_server(servicer: AdsServicer, server: grpc.aio.Server) -> None:
    """As the generated functions of this name; betterproto2's servers are of another library."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
            servicer.state_of_the_world, DiscoveryRequest.parse, bytes
        ),
        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
            servicer.delta, DeltaDiscoveryRequest.parse, bytes
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
