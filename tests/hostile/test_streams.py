"""Clients that open more than they need, say next to nothing, or never listen."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import region_pb2, region_pb2_grpc

from mesh import errors
from mesh.limits import ADDRESS_SHARE, STREAMS_PER_CONNECTION
from tests.hostile.conftest import STORE, Victim
from tests.support import PATIENCE

pytestmark = pytest.mark.timeout(300)  # ten thousand streams are work for their client, too

WATCH = region_pb2.WatchVisitsRequest(parent=STORE)


async def a_connection(stack: AsyncExitStack, target: str) -> Any:
    """Stubs on a connection of their own."""
    channel = grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
    return region_pb2_grpc.RegionServiceStub(await stack.enter_async_context(channel))


async def test_ten_thousand_streams(victim: Victim) -> None:
    answers = Counter[str]()
    streams: list[Any] = []

    async def first(stream: Any) -> str:
        try:
            await stream.read()
        except grpc.aio.AioRpcError as error:
            return errors.from_rpc(error).reason
        return "open"

    async with AsyncExitStack() as stack, victim.others_are_served():
        for _ in range(20):
            stub = await a_connection(stack, victim.target)
            opened = [stub.WatchVisits(WATCH) for _ in range(500)]
            streams += opened
            answers.update(await asyncio.gather(*map(first, opened)))

        grown = victim.grown()

    assert answers == {"open": ADDRESS_SHARE, "SHARE_USED_UP": 10_000 - ADDRESS_SHARE}
    assert grown < 130  # 32 KB an open stream make 65 MB; the others must leave nothing
    async with AsyncExitStack() as stack:  # and when they have left there is room again
        stub = await a_connection(stack, victim.target)
        async with asyncio.timeout(PATIENCE):
            while await first(stub.WatchVisits(WATCH)) != "open":
                answers.clear()  # the server has yet to hear that they left


async def test_one_connection_waits_for_its_own_streams(victim: Victim) -> None:
    async with AsyncExitStack() as stack:
        stub = await a_connection(stack, victim.target)
        streams = [stub.WatchVisits(WATCH) for _ in range(STREAMS_PER_CONNECTION + 1)]
        async with victim.others_are_served():
            await asyncio.gather(*(stream.read() for stream in streams[:-1]))

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(streams[-1].read(), 0.5)


async def test_senders_that_say_a_word_now_and_then(victim: Victim) -> None:
    async def drip(number: int) -> AsyncIterator[region_pb2.RecordSceneUpdatesRequest]:
        while True:
            yield region_pb2.RecordSceneUpdatesRequest(parent=STORE, batch_id=number)
            await asyncio.sleep(0.5)

    async with AsyncExitStack() as stack:
        stub = await a_connection(stack, victim.target)
        async with victim.others_are_served():
            streams = [stub.RecordSceneUpdates(drip(number)) for number in range(300)]
            for _ in range(3):
                answers = await asyncio.gather(*(stream.read() for stream in streams))

                assert [answer.batch_id for answer in answers] == list(range(300))
            grown = victim.grown()

    assert grown < 40  # 300 streams of 32 KB are 10 MB


async def test_listeners_that_never_listen(victim: Victim) -> None:
    begun = time.time() - 600

    def update(second: int) -> region_pb2.SceneUpdate:
        """All 200 people change places."""
        moment = Timestamp(seconds=int(begun) + second)
        people = [
            region_pb2.SceneObject(
                object_id=f"{number}-{'x' * 100}", zones=[region_pb2.ZonePresence(zone_id=f"zone-{second % 2}")]
            )
            for number in range(200)
        ]
        return region_pb2.SceneUpdate(scene=f"{STORE}/scenes/s", update_time=moment, objects=people)

    async with AsyncExitStack() as stack:
        stub = await a_connection(stack, victim.target)
        deaf = [stub.WatchVisits(WATCH) for _ in range(50)]
        await asyncio.gather(*(stream.read() for stream in deaf))
        async with victim.others_are_served():
            sent = stub.RecordSceneUpdates()
            for second in range(12):
                await sent.write(region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=[update(second)]))
                assert not (await sent.read()).errors
            grown = victim.grown()

        # 12 times 400 events of half a kilobyte wait for 50 streams: 120 MB, were they kept for each of them.
        assert grown < 60
