"""The discovery service over gRPC: who is told what, and what becomes of a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.request import urlopen

import grpc
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.rpc import Status

from mesh.xds.ads import SERVICE
from mesh.xds.policy import SERVICES
from mesh.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER
from tests.support import until
from tests.xds.conftest import ControlPlane

Stream = Callable[..., Any]


def open_stream(channel: grpc.aio.Channel) -> Any:
    call: Stream = channel.stream_stream(
        f"/{SERVICE}/StreamAggregatedResources", request_serializer=bytes, response_deserializer=DiscoveryResponse.parse
    )
    return call()


async def metrics(plane: ControlPlane) -> AsyncIterator[str]:
    def read() -> list[str]:
        with urlopen(plane.service.metrics_url) as response:
            return list(response.read().decode().splitlines())

    for line in await asyncio.to_thread(read):
        yield line


async def test_a_refusal_is_logged_counted_and_over_when_the_client_is_content(
    control_plane: Callable[..., ControlPlane], channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, match=["127.0.0.1:1"])
    stream = open_stream(channel(plane.service.target))

    async def counted(line: str) -> bool:
        return line in [found async for found in metrics(plane)]

    node = Node(id="gateway-7", user_agent_name="envoy")
    await stream.write(DiscoveryRequest(node=node, type_url=CLUSTER))
    clusters = await stream.read()
    assert len(clusters.resources) == len(SERVICES)
    await stream.write(
        DiscoveryRequest(type_url=CLUSTER, response_nonce=clusters.nonce, error_detail=Status(message="bad ring"))
    )
    await until(lambda: counted('poi_xds_nacks_total{client="envoy",type="CDS"} 1.0'))
    await until(lambda: counted('poi_xds_refusing{client="envoy",type="CDS"} 1.0'))

    def logged() -> list[str]:
        return [line for line in plane.service.log_tail().splitlines() if "configuration_refused" in line]

    await until(logged, "the refusal in the log")
    (line,) = logged()
    assert '"detail":"bad ring"' in line
    assert '"node":"gateway-7"' in line

    await stream.write(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["match"]))
    assert (await stream.read()).type_url == ENDPOINTS, "the stream goes on, and the clusters are not sent again"
    stream.cancel()
    await until(lambda: counted('poi_xds_refusing{client="envoy",type="CDS"} 0.0'))


async def test_listeners_differ_for_envoy_and_for_grpc(
    control_plane: Callable[..., ControlPlane], channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane)
    for agent, wanted, number in (("envoy", [], 1), ("gRPC Python", ["match"], 1), ("gRPC Python", ["gateway"], 0)):
        stream = open_stream(channel(plane.service.target))
        await stream.write(
            DiscoveryRequest(node=Node(id="a", user_agent_name=agent), type_url=LISTENER, resource_names=wanted)
        )
        assert len((await stream.read()).resources) == number
        stream.cancel()
