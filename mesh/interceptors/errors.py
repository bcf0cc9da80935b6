"""Ends an RPC with the status of what its handler raised. The only place that does."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

import grpc
import redis.exceptions
import structlog
from grpc_status import rpc_status

from mesh.errors import MeshError, Unavailable, from_rpc, to_status
from mesh.interceptors.base import Behaviour, Interceptor, Rpc

_log = structlog.get_logger(__name__)

_PASSES: Final = re.compile(r"(?:^|[ :'\"]-?)(?:BUSY|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED) ")
"""How Redis begins to say that it takes no writes now: it is full, a replica since a moment ago, or its disk is. Within
the text it stands where a script or a pipeline met it."""


class ErrorsInterceptor(Interceptor):
    """Answers what a handler raises.

    A MeshError as it is; a failed call to another service as that service put it; a Redis that cannot be reached, or
    takes no writes now, as UNAVAILABLE; anything else as INTERNAL, with an error id that leads to the traceback in the
    log.
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
    if isinstance(error, redis.exceptions.ResponseError) and _takes_no_writes(error):
        _log.warning("state_store_refuses", error=type(error).__name__)
        return Unavailable("the state store takes no writes", reason="STATE_UNAVAILABLE", retry_after=1.0)
    return None


def _takes_no_writes(error: redis.exceptions.ResponseError) -> bool:
    # Its client takes the first word away from those that it has a class for.
    kinds = redis.exceptions
    said = str(error).rpartition("caused error: ")[2]  # in a pipeline the command stands before it
    known = (kinds.ReadOnlyError, kinds.OutOfMemoryError, kinds.ClusterDownError, kinds.TryAgainError)
    return isinstance(error, known) or _PASSES.search(said) is not None


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
