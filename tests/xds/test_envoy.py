"""A real Envoy takes what the control plane says, in both variants of the protocol, and follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import httpx
import pytest

from mesh.local import Envoy
from tests.support import PATIENCE, until
from tests.xds.conftest import ControlPlane, StartReplica, who

Connect = Callable[[str], grpc.aio.Channel]
StartPlane = Callable[..., ControlPlane]
StartEnvoy = Callable[..., Envoy]


@pytest.mark.parametrize("delta", [False, True], ids=["state_of_the_world", "delta"])
async def test_an_endpoint_is_taken_out_under_load_without_a_failed_call(
    control_plane: StartPlane, envoy: StartEnvoy, replica: StartReplica, channel: Connect, delta: bool
) -> None:
    first, second, third = [await replica(number) for number in (1, 2, 3)]
    plane = await asyncio.to_thread(control_plane, match=[first, second], alert=[third])
    edge = await asyncio.to_thread(envoy, plane, delta=delta)
    client = channel(plane.gateway)
    await until(lambda: both(client), "both replicas behind the gateway")
    answered: list[int] = []
    enough = asyncio.Event()

    async def load() -> None:
        while not enough.is_set():
            answered.extend(await who(client, 1))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load())
        plane.write(match=[second, third], alert=[third])
        await until(lambda: 3 in answered)
        await first.server.stop()
        seen = len(answered)
        await until(lambda: len(answered) > seen + 100)
        enough.set()

    assert set(answered[seen:]) == {2, 3}
    statistics = edge.stats("(cluster_manager.cds|listener_manager.lds|cluster.match)")
    assert statistics["cluster_manager.cds.update_rejected"] == 0
    assert statistics["listener_manager.lds.update_rejected"] == 0
    assert statistics["cluster_manager.cds.update_success"] == 1, "replicas changed, clusters did not"
    assert statistics.get("cluster.match.upstream_rq_retry", 0) == 0, "nobody had to call twice"


async def both(client: grpc.aio.Channel) -> bool:
    return set(await who(client, 20)) == {1, 2}


async def test_envoy_and_clients_go_on_while_the_control_plane_is_down(
    control_plane: StartPlane, envoy: StartEnvoy, replica: StartReplica, channel: Connect
) -> None:
    first, second = [await replica(number) for number in (1, 2)]
    plane = await asyncio.to_thread(control_plane, match=[first])
    await asyncio.to_thread(envoy, plane)
    proxied, proxyless = channel(plane.gateway), channel("xds:///match")
    assert await who(proxied, 1) == await who(proxyless, 1) == [1]

    await asyncio.to_thread(plane.service.kill)
    assert await who(proxied, 10) == await who(proxyless, 10) == [1] * 10

    plane.path.unlink()  # back, but without a word from its source: no reason to take anything out
    await asyncio.to_thread(plane.service.spawn)
    await asyncio.to_thread(plane.service.wait_ready)
    assert await who(proxied, 10) == await who(proxyless, 10) == [1] * 10

    plane.write(match=[second])
    for client in (proxied, proxyless):

        async def moved(client: grpc.aio.Channel = client) -> bool:
            return await who(client, 1) == [2]

        await until(moved)


async def test_health_of_a_replica_is_watched_by_envoy(
    control_plane: StartPlane, envoy: StartEnvoy, replica: StartReplica, channel: Connect
) -> None:
    sick, well = [await replica(number) for number in (1, 2)]
    plane = await asyncio.to_thread(control_plane, match=[sick, well])
    await asyncio.to_thread(envoy, plane)
    client = channel(plane.gateway)
    await until(lambda: both(client), "both replicas behind the gateway")

    sick.server.set_serving("poi.v1.MatchService", False)

    async def only_the_other() -> bool:
        return set(await who(client, 20)) == {2}

    await until(only_the_other)


async def test_the_gateway_says_that_it_is_there(
    control_plane: StartPlane, envoy: StartEnvoy, replica: StartReplica
) -> None:
    plane = await asyncio.to_thread(control_plane)
    await asyncio.to_thread(envoy, plane)

    async with httpx.AsyncClient(base_url=f"http://{plane.gateway}", timeout=PATIENCE) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/nothing")).status_code == 404


async def test_a_gateway_without_memory_left_refuses_calls_and_recovers(
    control_plane: StartPlane, envoy: StartEnvoy, replica: StartReplica
) -> None:
    """Requests that are held back whole, none of them ever complete, would take all there is."""
    server = await replica(1)
    plane = await asyncio.to_thread(control_plane, match=[server], alert=[server])
    await asyncio.to_thread(envoy, plane, heap_bytes=120 << 20)
    host, port = plane.gateway.split(":")
    head = b"POST /v1/stores/s1/alerts:raise HTTP/1.1\r\nhost: gateway\r\ncontent-length: 12000000\r\n\r\n"

    async def hold() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(head + b" " * 11_000_000)
        return writer

    async with httpx.AsyncClient(base_url=f"http://{plane.gateway}", timeout=PATIENCE) as http:

        async def answers(status: int) -> bool:
            return (await http.get("/v1/stores/s1/galleryStatus")).status_code == status

        await until(lambda: answers(200))
        held = [await hold() for _ in range(24)]
        await until(lambda: answers(503), "calls refused for want of memory")
        for writer in held:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)
        await until(lambda: answers(200), "calls taken again")
