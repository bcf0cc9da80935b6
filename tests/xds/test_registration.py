"""Servers that register themselves are found, and no longer when they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from poi.v1 import registry_pb2, registry_pb2_grpc

from tests.support import until
from tests.xds.conftest import ControlPlane, Replica, StartReplica, who

pytestmark = pytest.mark.timeout(300)  # control planes start twice

SOURCE = {"POI_XDS_SOURCE": "registration", "POI_XDS_SETTLE_SECONDS": "3", "POI_XDS_LEASE_SECONDS": "3"}
AT_ONCE = {**SOURCE, "POI_XDS_SETTLE_SECONDS": "0"}


async def test_a_server_is_found_until_it_leaves(
    control_plane: Callable[..., ControlPlane], replica: StartReplica, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, SOURCE)
    settings = {"control_plane": plane.service.target}
    first, second = await replica(1, **settings), await replica(2, **settings)
    client = channel("xds:///match")

    async def both() -> bool:
        return set(await who(client, 4)) == {1, 2}

    await until(both, "both servers")
    async with calling(client):
        await asyncio.to_thread(plane.service.kill)
        await asyncio.to_thread(plane.service.start)
        await until(lambda: plane.service.log_tail(1000).count('"registered"') >= 4, "both at the next control plane")
    await until(both, "both servers after a restart of the control plane")

    async with calling(client):
        await first.server.stop()
    assert await who(client, 4) == [2] * 4

    second.server.set_serving("poi.v1.AlertService", False)
    await until(lambda: nobody_answers(client, second))


@asynccontextmanager
async def calling(client: grpc.aio.Channel) -> AsyncIterator[None]:
    """Calls are made all the time, and none fails."""
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            await who(client, 1)
            await asyncio.sleep(0.01)  # others need the processor too

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on())
        yield
        over.set()


async def nobody_answers(client: grpc.aio.Channel, replica: Replica) -> bool:
    """A call fails, and not because the replica that it reached was slow."""
    before = replica.calls
    try:
        await who(client, 1, patience=0.5)
    except grpc.aio.AioRpcError:
        return replica.calls == before
    return False


async def test_who_vanishes_without_a_word_is_forgotten_after_its_lease(
    control_plane: Callable[..., ControlPlane], replica: StartReplica, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, AT_ONCE)
    there = await replica(1)
    stub = registry_pb2_grpc.RegistryServiceStub(channel(plane.service.target))
    call = stub.Register()
    word = registry_pb2.RegisterRequest(service="match", address=there.address, state=registry_pb2.SERVER_STATE_SERVING)
    await call.write(word)
    await call.read()
    client = channel("xds:///match")

    async def found() -> bool:
        try:
            return await who(client, 1) == [1]
        except grpc.aio.AioRpcError:  # nobody was known yet
            return False

    await until(found)

    call.cancel()
    await until(lambda: '"health":"unknown"' in plane.service.log_tail())
    assert await who(client, 1) == [1], "a broken stream alone takes nobody out"
    await until(lambda: nobody_answers(client, there))
    assert "lease_expired" in plane.service.log_tail()


async def test_an_unknown_service_is_refused(
    control_plane: Callable[..., ControlPlane], channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, AT_ONCE)
    stub = registry_pb2_grpc.RegistryServiceStub(channel(plane.service.target))
    for service, address in (("printer", "127.0.0.1:7002"), ("match", "match:7002")):
        call = stub.Register()
        await call.write(
            registry_pb2.RegisterRequest(service=service, address=address, state=registry_pb2.SERVER_STATE_SERVING)
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
