"""Ends an RPC with the status of what its handler raised. The only place that does."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import redis.exceptions
import structlog
from grpc_status import rpc_status

from mesh.errors import MeshError, ResourceExhausted, Unavailable, from_rpc, to_status
from mesh.interceptors.base import Behaviour, Interceptor, Rpc

_log = structlog.get_logger(__name__)


class ErrorsInterceptor(Interceptor):
    """Answers what a handler raises.

    A MeshError as it is; a failed call to another service as that service put it; a Redis that cannot be reached as
    UNAVAILABLE, one that is full as RESOURCE_EXHAUSTED; anything else as INTERNAL, with an error id that leads to the
    traceback in the log.
    """

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Await the handler and answer what it raises."""

        async def run(request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:  # the handler ended the RPC itself (grpc's own health and reflection do)
                raise
            except Exception as error:
                known = translate(error)
                status = to_status(known or _unexpected(rpc, error))
                await context.abort_with_status(rpc_status.to_status(status))  # type: ignore[no-untyped-call]

        return run


def translate(error: Exception) -> MeshError | None:
    """What the client is told of an error; None of one that is unexpected."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        told = from_rpc(error)
        return told if told.code not in _NOT_OURS_TO_TELL else None
    if isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
        return Unavailable("the state store cannot be reached", reason="STATE_UNAVAILABLE", retry_after=1.0)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return ResourceExhausted("the state store is full: nothing of it is kept", reason="STATE_FULL", retry_after=1.0)
    return None


# What these say concerns us and our neighbour, not the client.
_NOT_OURS_TO_TELL = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


def _unexpected(rpc: Rpc, error: Exception) -> MeshError:
    error_id = uuid.uuid4().hex
    _log.error("rpc_failed", rpc_service=rpc.service, rpc_method=rpc.method, error_id=error_id, exc_info=error)
    return MeshError(f"internal error {error_id}", reason="INTERNAL", metadata={"error_id": error_id})
