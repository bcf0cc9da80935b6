"""What fuzzing found in the requests of the region service."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, region_pb2

from mesh.errors import InvalidArgument, from_rpc
from mesh.interceptors import ValidationInterceptor
from tests.conftest import StartService
from tests.region.client import client


async def test_a_batch_that_is_far_too_large_is_not_answered_item_by_item(
    service: StartService, redis_url: str
) -> None:
    """A message has room for millions of empty updates, and each refusal takes fifty times the room of one."""
    server = await asyncio.to_thread(service, "history_svc.region", {"POI_REDIS_URL": redis_url})
    huge = region_pb2.RecordSceneUpdatesRequest(parent="stores/s1", updates=[region_pb2.SceneUpdate()] * 1025)

    async with client(server.target) as stub:
        answers = aiter(stub.RecordSceneUpdates(iter([region_pb2.RecordSceneUpdatesRequest(batch_id=1), huge])))
        assert (await anext(answers)).batch_id == 1
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await anext(answers)

    error = from_rpc(raised.value)
    assert isinstance(error, InvalidArgument)
    assert (error.reason, [field for field, _ in error.violations]) == ("BATCH_TOO_LARGE", ["updates"])


@pytest.mark.parametrize("seconds", [-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1])
@pytest.mark.parametrize("bound", ["start_time", "end_time"])
def test_an_interval_beyond_the_years_1_to_9999_is_refused(bound: str, seconds: int) -> None:
    interval = common_pb2.Interval(**{bound: Timestamp(seconds=seconds)})
    request = region_pb2.GetOccupancyRequest(name="stores/s1/scenes/hall/occupancy", interval=interval)

    with pytest.raises(InvalidArgument) as refused:
        ValidationInterceptor().check(request)

    assert [field for field, _ in refused.value.violations] == [f"interval.{bound}"]
