"""A server that shows every behaviour of the chassis. Run by itself, or used inside a test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import grpc
import redis.exceptions

from mesh import errors
from mesh.server import Server, run
from mesh.settings import ServerSettings, load
from mesh.streams import until_drained

SERVICE = "meshtest.v1.EchoService"


class Settings(ServerSettings):
    """Settings of the echo server."""

    service: ClassVar[str] = "embed"
    marks: Path | None = None
    """Where `on_stop` notes that it ran."""


class Echo:
    """Does what the text of a request says."""

    def __init__(self, pb: Any, draining: asyncio.Event) -> None:
        self._pb, self._draining = pb, draining
        self.failures_left = 0
        self.calls = 0
        self.closed = asyncio.Event()

    async def Say(self, request: Any, context: Any) -> Any:
        self.calls += 1
        self._fail(request.text)
        if request.text == "abort":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "ended by the handler")
        if request.text == "neighbour":
            await _failing_neighbour(context)
        if request.text == "slow":
            await asyncio.sleep(1.0)
        if request.text == "slower":
            await asyncio.sleep(4.0)
        if request.text == "forever":
            await asyncio.Event().wait()
        return self._pb.SayReply(text=request.text, count=self.calls)

    async def Repeat(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for count in range(3):
                yield self._pb.SayReply(text=request.text, count=count)
            self._fail(request.text)
            if request.text == "forever":
                async for _ in until_drained(_never(), self._draining):
                    yield self._pb.SayReply()
        finally:
            self.closed.set()

    async def Collect(self, requests: AsyncIterator[Any], context: Any) -> Any:
        texts = [request.text async for request in until_drained(requests, self._draining)]
        return self._pb.SayReply(text=" ".join(texts), count=len(texts))

    async def Chat(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in until_drained(requests, self._draining):
            self._fail(request.text)
            yield self._pb.SayReply(text=request.text)

    async def Exchange(self, requests: AsyncIterator[Any], context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(self._pb.SayReply(text=request.text))

    async def Free(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._pb.SayReply(text=request.text)

    def _fail(self, text: str) -> None:
        if self.failures_left > 0:
            self.failures_left -= 1
            raise errors.Unavailable("not yet")
        match text:
            case "invalid":
                raise errors.InvalidArgument(violations=[("poi.display_name", "must not be empty")])
            case "missing":
                raise errors.NotFound("stores/s1/pois/p1")
            case "exhausted":
                raise errors.ResourceExhausted("too many", retry_after=1.5, reason="QUOTA")
            case "redis":
                raise redis.exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:6379")
            case "bug":
                raise KeyError("Jane Doe")


async def _failing_neighbour(context: Any) -> None:
    """Call ourselves as one server calls another, and let its error go up."""
    port = dict(context.invocation_metadata())["port"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say: Any = channel.unary_unary(f"/{SERVICE}/Say", request_serializer=bytes)
        await say(b"\x0a\x07invalid")  # SayRequest(text="invalid")


async def _never() -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield None


async def main() -> None:
    """Serve as a service of the mesh does."""
    echo_pb2, echo_pb2_grpc = import_module("echo_pb2"), import_module("echo_pb2_grpc")

    settings = load(Settings)
    server = Server(settings)
    server.add(echo_pb2_grpc.add_EchoServiceServicer_to_server, Echo(echo_pb2, server.draining), SERVICE)

    async def note() -> None:
        if settings.marks:
            with settings.marks.open("a") as marks:
                marks.write("closed\n")

    server.on_stop(note)
    await server.serve()


if __name__ == "__main__":
    run(main)
