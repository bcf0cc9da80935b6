"""A service in this process, called without a network: its own `main`, its interceptors, its servicers."""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import grpc
from google.protobuf.message import Message

from mesh.server import Server
from tests.fuzz.target import Finding

_WAIT_SECONDS = 40.0  # beyond what a busy machine takes for the slowest of them, and below what the worker calls a hang
_STREAM_SECONDS = 0.01
"""A stream that has said nothing for so long is left: most last for ever."""
_MOST_RESPONSES = 50
_MOST_TRAILER_BYTES = 8192
_OURS = {
    *(grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED),
    grpc.StatusCode.DATA_LOSS,  # nobody damages anything here
}


@dataclass(frozen=True)
class Method:
    """One method of the service."""

    path: str
    """/poi.v1.MatchService/MatchFaces"""
    request: type[Message]
    takes_stream: bool
    gives_stream: bool


@dataclass
class Answer:
    """How a call ended."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    responses: list[Message] = field(default_factory=list)


class Recorder:
    """Stands where `grpc.aio.server()` would be, and keeps what is registered."""

    def __init__(self, **options: Any) -> None:
        self.interceptors: Sequence[Any] = options["interceptors"]
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers are registered by method, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """By the generated code."""
        self.handlers |= {f"/{service}/{method}": handler for method, handler in handlers.items()}


class InProcess:
    """One service, started when it is made; it ends with the process."""

    def __init__(
        self,
        module: str,
        env: Callable[[], Awaitable[Mapping[str, str]]],
        loop: asyncio.AbstractEventLoop,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`env` is awaited in the loop: what it starts there, such as neighbours, runs with the service.

        `metadata` comes with every call.
        """
        self._loop, self._metadata = loop, metadata
        loop.run_until_complete(self._start(module, env))
        self.methods = [
            Method(path, request, bool(handler.request_streaming), bool(handler.response_streaming))
            for path, handler in sorted(self._recorder.handlers.items())
            if path.startswith("/poi.") and (request := _request_type(handler)) is not None
        ]

    async def _start(self, module: str, env: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._recorder: Any = None
        mains: list[Callable[[], Awaitable[None]]] = []
        serving = asyncio.Event()

        def recorder(**options: Any) -> Recorder:
            self._recorder = Recorder(**options)
            return self._recorder  # type: ignore[no-any-return]

        async def serve(server: Server) -> None:
            for start in server._starters:
                start()
            serving.set()
            await asyncio.Event().wait()

        os.environ.update(await env())
        sys.argv = [module]
        with (
            patch("mesh.server.run", mains.append),
            patch.object(Server, "serve", serve),
            patch("grpc.aio.server", recorder),
        ):
            runpy.run_module(module, run_name="__main__")
            self._main = asyncio.ensure_future(mains[0]())
            waiting = asyncio.ensure_future(serving.wait())
            done, _ = await asyncio.wait([self._main, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self._main in done:
            self._main.result()
            raise RuntimeError(f"{module} ended")

    def call(self, method: Method, requests: Sequence[Message]) -> Answer:
        """One call. Raises Finding where it answers with a status that no client has earned, or never."""
        return self._loop.run_until_complete(self._call(method, requests))

    async def _call(self, method: Method, requests: Sequence[Message]) -> Answer:
        details = _Details(method.path)

        async def find(_: object) -> Any:
            return self._recorder.handlers[method.path]

        handler: Callable[[Any], Awaitable[Any]] = find
        for interceptor in reversed(self._recorder.interceptors):
            handler = _next(interceptor, handler)
        found = await handler(details)
        context = Context(requests, self._metadata)
        # gRPC is told of streams of requests alone: the one of a unary call is read like the first of a stream.
        behaviour = found.stream_stream if method.gives_stream else found.stream_unary
        running = asyncio.ensure_future(behaviour(context.iterate(), context))
        # What a client's stream is answered with ends when the client has said all.
        patient = method.takes_stream or not method.gives_stream
        try:
            await asyncio.wait_for(_wait(running, context, patient=patient), _WAIT_SECONDS)
        except TimeoutError:
            raise Finding(f"{method.path} does not answer within {_WAIT_SECONDS} s") from None
        finally:
            running.cancel()
            if (await asyncio.wait([running], timeout=_WAIT_SECONDS))[1]:
                raise Finding(f"{method.path} goes on without its client: {_waits_for(running.get_coro())}")
        if running.cancelled():
            return context.answer
        error = running.exception()
        if error is not None and not isinstance(error, grpc.aio.AbortError):
            raise error
        if error is None and not method.gives_stream:
            context.answer.responses.append(running.result())
        return context.answer


class Context:
    """What a servicer sees of its client."""

    def __init__(self, requests: Iterable[Message], metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._metadata = metadata
        self.answer = Answer()
        self.heard = asyncio.Event()
        self._requests = iter(requests)

    async def iterate(self) -> AsyncIterator[Message]:
        """The client's stream."""
        for request in self._requests:
            yield request

    async def read(self) -> Any:
        """The next message of the client's stream."""
        return next(self._requests, grpc.aio.EOF)

    async def write(self, message: Message) -> None:
        """A message of the server's stream."""
        self.answer.responses.append(message)
        self.heard.set()
        if len(self.answer.responses) >= _MOST_RESPONSES:
            raise asyncio.CancelledError  # the client leaves

    async def abort_with_status(self, status: Any) -> None:
        """The end, with an error."""
        self.answer.code = status.code
        if status.code in _OURS:
            raise Finding(f"{status.code.name}: {status.details}") from sys.exc_info()[1]
        size = 3 * len(status.details.encode()) + sum(4 * len(value) // 3 for _, value in status.trailing_metadata)
        if size > _MOST_TRAILER_BYTES:
            raise Finding(f"a status of {size} bytes: a client's gRPC drops it for one of its own")
        raise grpc.aio.AbortError

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The client's."""
        return self._metadata

    def set_trailing_metadata(self, _: object) -> None:
        """Nobody reads it."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """No TLS."""
        return {}

    def peer(self) -> str:
        """Somewhere."""
        return "ipv4:127.0.0.1:1"

    def code(self) -> object:
        """Nothing was set."""
        return None if self.answer.code is grpc.StatusCode.OK else self.answer.code

    def time_remaining(self) -> float | None:
        """No deadline."""
        return None


@dataclass(frozen=True)
class _Details:
    method: str
    invocation_metadata: Sequence[tuple[str, str]] = ()


def _next(interceptor: Any, then: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    return lambda details: interceptor.intercept_service(then, details)


async def _wait(running: asyncio.Future[Any], context: Context, *, patient: bool) -> None:
    """Until the call ends, or a stream falls silent."""
    if patient:
        await asyncio.wait([running])
        return
    while not running.done():
        context.heard.clear()
        heard = asyncio.ensure_future(context.heard.wait())
        done, _ = await asyncio.wait([running, heard], timeout=_STREAM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        if not done:
            return


def _waits_for(awaited: Any) -> list[str]:
    """What a coroutine waits for, from the outermost to what never comes."""
    chain = []
    while awaited is not None:
        frame = next(
            (found for name in ("cr_frame", "ag_frame", "gi_frame") if (found := getattr(awaited, name, None))), None
        )
        chain.append(f"{awaited!r:.200}" + (f" line {frame.f_lineno}" if frame else ""))
        awaited = next(
            (found for name in ("cr_await", "ag_await", "gi_yieldfrom") if (found := getattr(awaited, name, None))),
            None,
        )
    return chain


def _request_type(handler: Any) -> type[Message] | None:
    return getattr(handler.request_deserializer, "__self__", None)
