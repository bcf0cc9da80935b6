"""gRPC clients that name a service `xds:///match`, without any proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import grpc

from tests.xds.conftest import ControlPlane, StartReplica, until, who

Connect = Callable[[str], grpc.aio.Channel]
StartPlane = Callable[..., ControlPlane]


async def test_calls_are_spread_over_replicas_and_follow_the_file(
    control_plane: StartPlane, replica: StartReplica, channel: Connect
) -> None:
    first, second, third = [await replica(number) for number in (1, 2, 3)]
    plane = control_plane(match=[first, second])
    client = channel("xds:///match")

    assert Counter(await who(client, 20)) == {1: 10, 2: 10}

    plane.write(match=[second, third])

    async def moved() -> bool:
        return 3 in await who(client, 4)

    await until(moved)
    assert Counter(await who(client, 20)) == {2: 10, 3: 10}
