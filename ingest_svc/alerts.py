"""Raises alerts until the alert service has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import grpc
import structlog
from poi.v1 import alert_pb2, alert_pb2_grpc

from mesh import errors

_log = structlog.get_logger(__name__)

_FIRST_BACKOFF, _MAX_BACKOFF = 0.05, 1.0
_CALLS = 4
"""At a time: a service that is slow gets no slower by all that waits for it."""
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 30.0
"""Deadline of a call. Short at first, so that a server that hangs is left for another one; it doubles whenever it is
missed, as a call that is given up and repeated while the server works on it only adds to the load."""

Candidates = Sequence[alert_pb2.AlertCandidate]
Answers = Sequence[alert_pb2.RaisedAlert]


class AlertRaiser:
    """RaiseAlerts with repeats: an alert that cannot be raised now holds its messages back, it is never dropped."""

    def __init__(self, parent: str, stub: alert_pb2_grpc.AlertServiceAsyncStub) -> None:
        self._parent = parent
        self._stub = stub
        self._turns = asyncio.Semaphore(_CALLS)
        self._seconds = _LEAST_SECONDS

    async def raise_alerts(self, fresh: Callable[[], Awaitable[Candidates]]) -> Answers:
        """What became of each candidate that `fresh` gave last; nothing of none. Returns when all are durable.

        `fresh` gives the candidates, at most 256, and is asked before each attempt: what has waited may not be true any
        more. Raises the MeshError of a request that the service will never take.
        """
        backoff = _FIRST_BACKOFF
        while True:
            async with self._turns:
                candidates = await fresh()
                if not candidates:
                    return ()
                response = await self._try(alert_pb2.RaiseAlertsRequest(parent=self._parent, candidates=candidates))
            if response is not None:
                break
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)
        for item in response.errors:
            _log.error("alert_refused", reason=errors.from_status(item.status).reason, detection=item.item_id)
        return response.alerts

    async def _try(self, request: alert_pb2.RaiseAlertsRequest) -> alert_pb2.RaiseAlertsResponse | None:
        """None where it has to be tried again."""
        seconds = self._seconds
        try:
            # Not waiting for the server to be there: candidates must not grow old in a call.
            response = await self._stub.RaiseAlerts(request, timeout=seconds, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise errors.from_rpc(error) from None
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                self._seconds = min(max(self._seconds, seconds * 2), _MOST_SECONDS)
            _log.warning("alerts_wait", reason=error.code().name, alerts=len(request.candidates), after_seconds=seconds)
            return None
        self._seconds = max(_LEAST_SECONDS, self._seconds / 2)
        return response
