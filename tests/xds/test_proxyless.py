"""gRPC clients that name a service `xds:///match`, without any proxy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, region_pb2, region_pb2_grpc

from ingest_svc.batch_stream import BatchStream
from mesh import calling
from tests.support import until
from tests.xds.conftest import STORE, ControlPlane, StartReplica, who

Connect = Callable[[str], grpc.aio.Channel]
StartPlane = Callable[..., ControlPlane]


async def test_calls_are_spread_over_replicas_and_follow_the_file(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    first, second, third = [await replica(number) for number in (1, 2, 3)]
    plane = control_plane(match=[first, second])
    client = channel("xds:///match")

    async def answer(numbers: set[int]) -> bool:
        return set(await who(client, 6)) == numbers

    await until(lambda: answer({1, 2}))
    assert Counter(await who(client, 20)) == {1: 10, 2: 10}

    plane.write(match=[second, third])
    await until(lambda: answer({2, 3}))
    assert Counter(await who(client, 20)) == {2: 10, 3: 10}


async def test_who_calls_before_there_is_a_control_plane_waits_for_it(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    only = await replica(1)
    client = channel("xds:///match")
    calls = [asyncio.create_task(who(client, 1)) for _ in range(3)]
    await until(lambda: client.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE, "nobody to ask")
    calls += [asyncio.create_task(who(client, 1)) for _ in range(3)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # a stream's owner opens it again
        await alert_pb2_grpc.AlertServiceStub(client).StreamAlerts(alert_pb2.StreamAlertsRequest(parent=STORE)).read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    await asyncio.to_thread(control_plane, match=[only])
    assert await asyncio.gather(*calls) == [[1]] * 6


async def test_calls_about_one_store_go_to_one_replica_while_it_is_there(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    replicas = [await replica(number) for number in range(4)]
    plane = await asyncio.to_thread(control_plane, region=replicas)
    stub = region_pb2_grpc.RegionServiceStub(channel("xds:///region"))
    request = region_pb2.GetOccupancyRequest(name=f"{STORE}/scenes/floor/occupancy")

    async def chosen() -> dict[int, int]:
        """Store -> the replica that answered."""
        answers = {}
        for store in range(40):
            answer = await stub.GetOccupancy(request, metadata=((calling.STORE_HEADER, f"store-{store}"),))
            answers[store] = answer.zones[0].count
        return answers

    before = await chosen()
    assert await chosen() == before
    assert set(before.values()) == {0, 1, 2, 3}

    plane.write(region=replicas[:3])

    async def moved() -> bool:
        return 3 not in (await chosen()).values()

    await until(moved)
    after = await chosen()
    others = [store for store, number in before.items() if number != 3]
    stayed = sum(before[store] == after[store] for store in others)
    assert stayed > len(others) / 2, "not a new lot for everybody: two of three would have moved"


async def test_the_scene_streams_of_a_store_share_a_replica_and_move_together_when_it_leaves(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    replicas = [await replica(number) for number in (0, 1)]
    plane = await asyncio.to_thread(control_plane, region=replicas)
    stub = region_pb2_grpc.RegionServiceStub(channel("xds:///region"))

    @asynccontextmanager
    async def ingest(store: int) -> AsyncIterator[Callable[[], asyncio.Task[int]]]:
        """Sends a batch of a store's updates, as an ingest server does: which replica took it."""
        headers = calling.headers({calling.STORE_HEADER: f"s{store}"})
        stream = BatchStream("region", partial(stub.RecordSceneUpdates, metadata=headers))
        running = asyncio.create_task(stream.run())

        async def send() -> int:
            name = f"stores/s{store}"
            before = [each.updated.count(name) for each in replicas]
            await stream.send(region_pb2.RecordSceneUpdatesRequest(parent=name))
            return [each.updated.count(name) > count for each, count in zip(replicas, before, strict=True)].index(True)

        yield lambda: asyncio.create_task(send())
        running.cancel()

    stores = range(20)
    async with AsyncExitStack() as undo:
        first, second = [[await undo.enter_async_context(ingest(store)) for store in stores] for _ in range(2)]
        before = [await send() for send in first]
        assert [await send() for send in second] == before
        assert set(before) == {0, 1}

        plane.write(region=replicas[1:])
        await replicas[0].server.stop()
        assert [await send() for send in first] == [await send() for send in second] == [1] * len(stores)
