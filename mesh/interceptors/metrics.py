"""Counts RPCs and messages, under the names that gRPC dashboards know (those of go-grpc-middleware)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from prometheus_client import Counter, Gauge, Histogram

from mesh.interceptors.base import Behaviour, Interceptor, Rpc, status_name
from mesh.telemetry import LATENCY_BUCKETS

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
HANDLED = Counter("grpc_server_handled_total", "RPCs that ended, by status code.", (*_METHOD, "grpc_code"))
SECONDS = Histogram("grpc_server_handling_seconds", "Duration of RPCs that ended.", _METHOD, buckets=LATENCY_BUCKETS)
RECEIVED = Counter("grpc_server_msg_received_total", "Messages received on streams.", _METHOD)
SENT = Counter("grpc_server_msg_sent_total", "Messages sent on streams.", _METHOD)
IN_FLIGHT = Gauge("grpc_server_in_flight", "RPCs that are running.", _METHOD)


class MetricsInterceptor(Interceptor):
    """The metrics of each method. What is counted per message is bound once per RPC."""

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Count the RPC, and its messages where it streams."""
        method = (rpc.kind, rpc.service, rpc.method)
        streams = rpc.request_streaming or rpc.response_streaming
        in_flight = IN_FLIGHT.labels(*method)

        async def run(request: Any, context: Any) -> Any:
            error: BaseException | None = None
            passed = context
            if streams:
                received, sent = RECEIVED.labels(*method).inc, SENT.labels(*method).inc
                passed = _Counting(context, received, sent)
                if rpc.request_streaming:
                    request = _counted(request, received)
            in_flight.inc()
            started = time.perf_counter()
            try:
                return await behaviour(request, passed)
            except BaseException as raised:
                error = raised
                raise
            finally:
                in_flight.dec()
                SECONDS.labels(*method).observe(time.perf_counter() - started)
                HANDLED.labels(*method, status_name(context, error)).inc()

        return run


async def _counted(messages: AsyncIterator[Any], count: Callable[[], None]) -> AsyncIterator[Any]:
    async for message in messages:
        count()
        yield message


class _Counting:
    """A context that counts what goes through it."""

    def __init__(self, context: Any, received: Callable[[], None], sent: Callable[[], None]) -> None:
        self._context, self._write, self._received, self._sent = context, context.write, received, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._write(message)
        self._sent()

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._received()
        return message
