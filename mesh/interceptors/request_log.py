"""A line for each unary RPC that failed (at debug level also when it did not), and for each start and end of a stream.

Method, status, duration and peer; never the contents of a message, nor the text of a status, which may quote them.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from mesh.interceptors.base import Behaviour, Interceptor, Rpc, status_name

_log = structlog.get_logger(__name__)


class RequestLogInterceptor(Interceptor):
    """Writes the request log."""

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Log the RPC's end, and the start of a stream."""
        streams = rpc.request_streaming or rpc.response_streaming

        async def run(request: Any, context: Any) -> Any:
            error: BaseException | None = None
            if streams:
                _log.info("stream_started", rpc_service=rpc.service, rpc_method=rpc.method, peer=context.peer())
            started = time.perf_counter()
            try:
                return await behaviour(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                code = status_name(context, error)
                write = _log.info if streams or code != "OK" else _log.debug
                write(
                    "stream_ended" if streams else "rpc",
                    rpc_service=rpc.service,
                    rpc_method=rpc.method,
                    code=code,
                    duration_ms=round((time.perf_counter() - started) * 1e3, 3),
                    peer=context.peer(),
                )

        return run
