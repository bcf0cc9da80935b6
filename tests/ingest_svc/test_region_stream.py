"""What ingest says of its stream of scene updates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from poi.v1 import region_pb2


class Region:
    """RecordSceneUpdates, which is all that ingest calls; keeps the metadata of the stream."""

    def __init__(self) -> None:
        self.metadata: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def record(self, requests: Any, context: Any) -> AsyncIterator[region_pb2.RecordSceneUpdatesResponse]:
        """Takes what comes."""
        self.metadata.set_result(dict(context.invocation_metadata()))
        async for request in requests:
            yield region_pb2.RecordSceneUpdatesResponse(batch_id=request.batch_id)


@pytest.fixture
async def region() -> AsyncIterator[tuple[Region, str]]:
    server, region = grpc.aio.server(), Region()
    method = grpc.stream_stream_rpc_method_handler(
        region.record,
        request_deserializer=region_pb2.RecordSceneUpdatesRequest.FromString,
        response_serializer=region_pb2.RecordSceneUpdatesResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("poi.v1.RegionService", {"RecordSceneUpdates": method})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield region, f"127.0.0.1:{port}"
    await server.stop(0)


async def test_the_stream_of_scene_updates_says_whose_it_is(mesh: Any, region: tuple[Region, str]) -> None:
    server, target = region
    await asyncio.to_thread(mesh, {"POI_REGION_TARGET": target, "POI_STORE": "s7"}, services=["ingest"])
    metadata = await asyncio.wait_for(server.metadata, 10)
    assert metadata["poi-store"] == "s7"
