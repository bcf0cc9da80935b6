"""Servers that register themselves are found, and no longer when they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from poi.v1 import registry_pb2, registry_pb2_grpc

from tests.xds.conftest import ControlPlane, StartReplica, until, who

SOURCE = {"POI_XDS_SOURCE": "registration", "POI_XDS_SETTLE_SECONDS": "1", "POI_XDS_LEASE_SECONDS": "1"}


async def test_a_server_is_found_until_it_leaves(
    control_plane: Callable[..., ControlPlane], replica: StartReplica, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, SOURCE)
    settings = {"control_plane": plane.service.target}
    first, second = await replica(1, **settings), await replica(2, **settings)
    client = channel("xds:///match")

    async def answer(numbers: set[int]) -> bool:
        try:
            return set(await who(client, 4, patience=1)) == numbers
        except grpc.aio.AioRpcError:  # nobody is known yet
            return False

    await until(lambda: answer({1, 2}))
    await asyncio.to_thread(plane.service.kill)
    await asyncio.to_thread(plane.service.start)
    assert await answer({1, 2}), "nobody was forgotten over a restart of the control plane"

    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(first.server.stop())
        while not leaving.done():
            await who(client, 1)  # no call fails

    second.server.set_serving("poi.v1.AlertService", False)
    await until(lambda: _fails(client))


async def _fails(client: grpc.aio.Channel) -> bool:
    try:
        await who(client, 1, patience=0.5)
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_who_vanishes_without_a_word_is_forgotten_after_its_lease(
    control_plane: Callable[..., ControlPlane], replica: StartReplica, channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, SOURCE)
    there = await replica(1)
    stub = registry_pb2_grpc.RegistryServiceStub(channel(plane.service.target))
    call = stub.Register()
    word = registry_pb2.RegisterRequest(service="match", address=there.address, state=registry_pb2.SERVER_STATE_SERVING)
    await call.write(word)
    await call.read()
    client = channel("xds:///match")
    await until(lambda: _answers(client))

    call.cancel()
    assert await _answers(client), "a broken stream alone takes nobody out"
    await until(lambda: _fails(client))


async def _answers(client: grpc.aio.Channel) -> bool:
    return not await _fails(client)


async def test_an_unknown_service_is_refused(
    control_plane: Callable[..., ControlPlane], channel: Callable[[str], grpc.aio.Channel]
) -> None:
    plane = await asyncio.to_thread(control_plane, SOURCE)
    stub = registry_pb2_grpc.RegistryServiceStub(channel(plane.service.target))
    for service, address in (("printer", "127.0.0.1:7002"), ("match", "match:7002")):
        call = stub.Register()
        await call.write(
            registry_pb2.RegisterRequest(service=service, address=address, state=registry_pb2.SERVER_STATE_SERVING)
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
