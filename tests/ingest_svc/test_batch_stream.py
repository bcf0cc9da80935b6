"""A batch stream survives its server: every batch is answered, whatever happens in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from poi.v1 import region_pb2, region_pb2_grpc

from ingest_svc.batch_stream import BatchStream
from mesh import channels, errors

Request = region_pb2.RecordSceneUpdatesRequest
Response = region_pb2.RecordSceneUpdatesResponse


class Recorder:
    """Answers the batches of one method, as it is told to; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.die_after = 0
        self.refuse_parent = ""

    def serve_on(self, server: grpc.aio.Server) -> None:
        """Serve RegionService.RecordSceneUpdates."""
        handler = grpc.stream_stream_rpc_method_handler(self._record, Request.FromString, Response.SerializeToString)
        service = grpc.method_handlers_generic_handler("poi.v1.RegionService", {"RecordSceneUpdates": handler})
        server.add_generic_rpc_handlers((service,))

    async def _record(self, request_iterator: AsyncIterator[Request], context: Any) -> AsyncIterator[Response]:
        async for request in request_iterator:
            self.seen.append(request.batch_id)
            if self.refuse_parent and request.parent == self.refuse_parent:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
            if self.die_after and len(self.seen) == self.die_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield Response(batch_id=request.batch_id)


@contextlib.asynccontextmanager
async def stream_to(recorder: Recorder) -> AsyncIterator[tuple[BatchStream[Request, Response], grpc.aio.Server]]:
    server = grpc.aio.server()
    recorder.serve_on(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = channels.connect(f"127.0.0.1:{port}")
    stub: Any = region_pb2_grpc.RegionServiceStub(channel)
    stream: BatchStream[Request, Response] = BatchStream("region", stub.RecordSceneUpdates)
    running = asyncio.create_task(stream.run())
    try:
        yield stream, server
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await channel.close()
        await server.stop(None)


async def test_batches_under_way_are_answered_each_with_its_own() -> None:
    async with stream_to(Recorder()) as (stream, _):
        responses = await asyncio.gather(*(stream.send(Request(parent=f"stores/{n}")) for n in range(50)))

    assert [response.batch_id for response in responses] == list(range(1, 51))


async def test_what_was_not_answered_is_sent_again_in_order() -> None:
    recorder = Recorder()
    recorder.die_after = 20
    async with stream_to(recorder) as (stream, _):
        responses = await asyncio.gather(*(stream.send(Request()) for _ in range(50)))

    assert [response.batch_id for response in responses] == list(range(1, 51))
    again = recorder.seen[20:]
    assert again == list(range(again[0], 51)), "everything unanswered, oldest first"
    assert again[0] <= 20


async def test_a_stream_that_its_channel_gave_up_is_opened_again() -> None:
    """As a channel does that has a new certificate: the call ends as cancelled, though nobody asked us to stop."""
    server, calls = grpc.aio.server(), []
    Recorder().serve_on(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channels.connect(f"127.0.0.1:{port}") as channel:
        stub: Any = region_pb2_grpc.RegionServiceStub(channel)

        def open_call(requests: AsyncIterator[Request]) -> Any:
            calls.append(stub.RecordSceneUpdates(requests))
            return calls[-1]

        stream: BatchStream[Request, Response] = BatchStream("region", open_call)
        running = asyncio.create_task(stream.run())
        await stream.send(Request())
        calls[0].cancel()

        assert (await asyncio.wait_for(stream.send(Request()), 10)).batch_id == 2
        assert len(calls) == 2
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await server.stop(None)


async def test_a_batch_that_nobody_takes_fails_alone() -> None:
    recorder = Recorder()
    recorder.refuse_parent = "stores/bad"
    async with stream_to(recorder) as (stream, _):
        results = await asyncio.gather(
            *(stream.send(Request(parent="stores/bad" if n == 3 else "stores/good")) for n in range(8)),
            return_exceptions=True,
        )

    assert isinstance(results[3], errors.InvalidArgument)
    assert all(isinstance(result, Response) for n, result in enumerate(results) if n != 3)


async def test_a_server_that_is_not_there_yet_is_waited_for(free_port: int) -> None:
    channel = channels.connect(f"127.0.0.1:{free_port}")
    stub: Any = region_pb2_grpc.RegionServiceStub(channel)
    stream: BatchStream[Request, Response] = BatchStream("region", stub.RecordSceneUpdates)
    running = asyncio.create_task(stream.run())
    sending = asyncio.create_task(stream.send(Request()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(sending), 0.5)

    server = grpc.aio.server()
    Recorder().serve_on(server)
    server.add_insecure_port(f"127.0.0.1:{free_port}")
    await server.start()

    assert (await asyncio.wait_for(sending, 60)).batch_id == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await channel.close()
    await server.stop(None)
