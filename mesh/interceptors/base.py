"""One shape for the four kinds of RPC, so that an interceptor is written once.

gRPC calls a handler with a request or an iterator of requests, and expects a response, an async generator, or a
coroutine that writes to its context. Here each becomes a coroutine `behaviour(request_or_iterator, context) ->
response or None`; a streamed response is written to the context. So an interceptor that does not look at messages
costs a stream nothing per message.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import grpc

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only


@dataclass(frozen=True, slots=True)
class Rpc:
    """Which method is called, and how."""

    service: str
    method: str
    request_streaming: bool
    response_streaming: bool

    @property
    def kind(self) -> str:
        """unary, client_stream, server_stream or bidi_stream."""
        if self.request_streaming:
            return "bidi_stream" if self.response_streaming else "client_stream"
        return "server_stream" if self.response_streaming else "unary"


class Layer(grpc.aio.ServerInterceptor):
    """Puts a handler of its own in the place of each; once for a method, as most calls are of one that was called."""

    @cached_property
    def _made(self) -> dict[str, tuple[Handler, Handler]]:
        return {}

    @abstractmethod
    def make(self, method: str, handler: Handler) -> Handler:
        """What stands for `handler`, which serves `method` ("/poi.v1.AlertService/GetAlert")."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Called by gRPC for each RPC."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return None
        method = handler_call_details.method
        known = self._made.get(method)
        if known is None or known[0] is not handler:
            known = self._made[method] = handler, self.make(method, handler)
        return known[1]


class Interceptor(Layer):
    """Wraps the behaviour of every method; a subclass says with what."""

    @abstractmethod
    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """What runs instead of `behaviour`. Called once for a method, so what it keeps is of all its RPCs."""

    def make(self, method: str, handler: Handler) -> Handler:
        """The same kind of handler, wrapped."""
        _, service, name = method.split("/", 2)
        rpc = Rpc(service, name, bool(handler.request_streaming), bool(handler.response_streaming))
        make, behaviour = _KINDS[rpc.request_streaming, rpc.response_streaming]
        wrapped = self.wrap(rpc, _as_coroutine(behaviour(handler)))
        new: Handler = make(wrapped, handler.request_deserializer, handler.response_serializer)
        return new


class AtHeaders(Layer):
    """The outermost: lets a call begin when its headers are there, whatever has come of its request.

    gRPC awaits the one request of a unary call, or of a server stream, before it calls anybody: its bytes would be
    nobody's, and could wait for ever for the last one. On the wire a stream of requests is the same, so gRPC is given
    handlers of those. What is between here and `SharesInterceptor` gets, in place of the request, what receives it.
    """

    def make(self, method: str, handler: Handler) -> Handler:
        """A handler of a stream of requests."""
        if handler.request_streaming:
            return handler
        behaviour: Behaviour = _KINDS[False, bool(handler.response_streaming)][1](handler)

        async def run(_: Any, context: Any) -> Any:
            return await behaviour(context.read, context)

        make = _KINDS[True, bool(handler.response_streaming)][0]
        new: Handler = make(run, handler.request_deserializer, handler.response_serializer)
        return new


_KINDS: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    (False, False): (grpc.unary_unary_rpc_method_handler, lambda handler: handler.unary_unary),
    (False, True): (grpc.unary_stream_rpc_method_handler, lambda handler: handler.unary_stream),
    (True, False): (grpc.stream_unary_rpc_method_handler, lambda handler: handler.stream_unary),
    (True, True): (grpc.stream_stream_rpc_method_handler, lambda handler: handler.stream_stream),
}


def _as_coroutine(behaviour: Any) -> Behaviour:
    if inspect.iscoroutinefunction(behaviour):
        coroutine: Behaviour = behaviour
        return coroutine
    if not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{behaviour} must be an async function or an async generator function")

    async def write_all(request: Any, context: Any) -> None:
        # Closed here and now, so that a generator's `finally` runs before the RPC ends, not when it is garbage.
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all


def status_name(context: Any, error: BaseException | None) -> str:
    """The name of the status an RPC ended with ("OK"), as far as the server can know."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    if code:  # gRPC keeps the number
        return _NAMES.get(code, "UNKNOWN")
    if error is None:
        return "OK"
    if isinstance(error, Exception):
        return "UNKNOWN"
    remaining = context.time_remaining()  # cancelled: by the client, or by its deadline
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"


_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
