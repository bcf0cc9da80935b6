"""What a client says with every call: who it is, and why it asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import grpc

STORE_HEADER: Final = "poi-store"
"""Whose stream it is, for balancers: where a store's state is in memory, its streams go to one replica."""

SERVICE_HEADER: Final = "poi-service"
"""Whose health a client asks the gateway for ("match"): all servers have that one contract."""

_Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


def printable(text: str) -> str:
    """Text as a header may hold it: what is not printable ASCII is percent-encoded, as is the percent sign."""
    return quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def headers(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`metadata` as gRPC sends it."""
    return tuple((name, printable(value)) for name, value in metadata.items())


def interceptors(metadata: Mapping[str, str]) -> list[grpc.aio.ClientInterceptor]:
    """Interceptors of a channel that add `metadata` to calls of every kind. gRPC takes one for each."""
    added = headers(metadata)
    return [_UnaryUnary(added), _UnaryStream(added), _StreamUnary(added), _StreamStream(added)]


class _Adding:
    def __init__(self, added: tuple[tuple[str, str], ...]) -> None:
        self._added = added

    def _with(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        whole = grpc.aio.Metadata(*(details.metadata or ()), *self._added)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, whole, details.credentials, details.wait_for_ready
        )


class _UnaryUnary(_Adding, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._with(client_call_details), request)


class _UnaryStream(_Adding, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._with(client_call_details), request)


class _StreamUnary(_Adding, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._with(client_call_details), request_iterator)


class _StreamStream(_Adding, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._with(client_call_details), request_iterator)
