"""gRPC clients that name a service `xds:///match`, without any proxy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import grpc
from poi.v1 import region_pb2, region_pb2_grpc

from mesh.xds.policy import SCENE_HEADER
from tests.xds.conftest import STORE, ControlPlane, StartReplica, until, who

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


async def test_calls_about_one_scene_go_to_one_replica_while_it_is_there(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    replicas = [await replica(number) for number in range(4)]
    plane = await asyncio.to_thread(control_plane, region=replicas)
    stub = region_pb2_grpc.RegionServiceStub(channel("xds:///region"))
    request = region_pb2.GetOccupancyRequest(name=f"{STORE}/scenes/floor/occupancy")

    async def chosen() -> dict[int, int]:
        """Scene -> the replica that answered."""
        answers = {}
        for scene in range(40):
            answer = await stub.GetOccupancy(request, metadata=((SCENE_HEADER, f"scene-{scene}"),))
            answers[scene] = answer.zones[0].count
        return answers

    before = await chosen()
    assert await chosen() == before
    assert set(before.values()) == {0, 1, 2, 3}

    plane.write(region=replicas[:3])

    async def moved() -> bool:
        return 3 not in (await chosen()).values()

    await until(moved)
    after = await chosen()
    others = [scene for scene, number in before.items() if number != 3]
    stayed = sum(before[scene] == after[scene] for scene in others)
    assert stayed > len(others) / 2, "not a new lot for everybody: two of three would have moved"
