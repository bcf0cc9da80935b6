"""A bidirectional batch stream that survives its server: what was not answered is sent again on a new stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar

import grpc
import structlog

from mesh import errors
from mesh.channels import MAX_MESSAGE_BYTES

_log = structlog.get_logger(__name__)

_OUR_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
"""A batch that is answered so will be answered so again: it is given up. Anything else may pass."""
_FIRST_BACKOFF, _MAX_BACKOFF = 0.05, 1.0


class _Batch(Protocol):
    """A response with a batch number. (Protobuf's generated types have the attribute.)"""

    batch_id: int


class _Request(_Batch, Protocol):
    """A request with one."""

    def ByteSize(self) -> int: ...


RequestT = TypeVar("RequestT", bound=_Request)
ResponseT = TypeVar("ResponseT", bound=_Batch)


class BatchStream(Generic[RequestT, ResponseT]):
    """Sends numbered batches and pairs the responses with them.

    `open_call` starts the RPC on an iterator of requests and gives the iterator of responses. `run` must be running.
    """

    def __init__(
        self,
        name: str,
        open_call: Callable[[AsyncIterator[RequestT]], AsyncIterable[ResponseT]],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """`max_message_bytes`: those of the channel."""
        self._name = name
        self._open_call = open_call
        self._max_message_bytes = max_message_bytes
        self._pending: dict[int, tuple[RequestT, asyncio.Future[ResponseT]]] = {}
        self._outbox: asyncio.Queue[RequestT] = asyncio.Queue()
        self._next_id = 1
        self.connected = False

    async def send(self, request: RequestT) -> ResponseT:
        """The response to this batch, whatever happens to the server in between.

        Raises the MeshError that says why the batch itself cannot be taken.
        """
        request.batch_id = batch_id = self._next_id
        self._next_id += 1
        # gRPC would end the stream for it, with a status that may as well pass: it would be sent again for ever.
        if (size := request.ByteSize()) > self._max_message_bytes:
            raise errors.InvalidArgument(f"{size} bytes, {self._max_message_bytes} at most", reason="TOO_LARGE")
        future: asyncio.Future[ResponseT] = asyncio.get_running_loop().create_future()
        self._pending[batch_id] = (request, future)
        self._outbox.put_nowait(request)
        try:
            return await future
        finally:
            self._pending.pop(batch_id, None)

    async def run(self) -> None:
        """Keep a stream open for ever. Cancel to stop."""
        backoff = _FIRST_BACKOFF
        while True:
            # A queue for each stream: what the old one still held is pending, and goes first.
            self._outbox = asyncio.Queue()
            for request, _ in self._pending.values():
                self._outbox.put_nowait(request)
            try:
                async for response in self._open_call(_drain(self._outbox)):
                    if not self.connected:
                        self.connected, backoff = True, _FIRST_BACKOFF
                    entry = self._pending.get(response.batch_id)
                    if entry is not None and not entry[1].done():
                        entry[1].set_result(response)
                reason = "ended"
            except grpc.aio.AioRpcError as error:
                reason = error.code().name
                if error.code() in _OUR_FAULT:
                    self._give_up_oldest(errors.from_rpc(error))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                reason = "cancelled"  # by its channel, which has a new certificate and gave up on the old one
            self.connected = False
            _log.warning(
                "stream_lost", stream=self._name, reason=reason, pending=len(self._pending), retry_in_seconds=backoff
            )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    def _give_up_oldest(self, error: errors.MeshError) -> None:
        # Responses come in order: the oldest batch without one is the one that ended the stream.
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(error)
                return


async def _drain(outbox: asyncio.Queue[RequestT]) -> AsyncIterator[RequestT]:
    while True:
        yield await outbox.get()
