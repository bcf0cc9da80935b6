"""Raises alerts until the alert service has them."""

from __future__ import annotations

import asyncio

import grpc
import structlog
from poi.v1 import alert_pb2, alert_pb2_grpc

from mesh import errors

_log = structlog.get_logger(__name__)

_FIRST_BACKOFF, _MAX_BACKOFF = 0.05, 1.0
_BATCH = 256
_CALL_SECONDS = 2.0


class AlertRaiser:
    """RaiseAlerts with repeats: an alert that cannot be raised now holds its messages back, it is never dropped."""

    def __init__(self, parent: str, stub: alert_pb2_grpc.AlertServiceAsyncStub) -> None:
        self._parent = parent
        self._stub = stub

    async def raise_alerts(self, candidates: list[alert_pb2.AlertCandidate]) -> int:
        """How many alerts were raised for the first time. Returns when all are durable.

        Raises the MeshError of a request that the service will never take.
        """
        created = 0
        for start in range(0, len(candidates), _BATCH):
            request = alert_pb2.RaiseAlertsRequest(parent=self._parent, candidates=candidates[start : start + _BATCH])
            response = await self._call(request)
            created += sum(item.created for item in response.alerts)
            for item in response.errors:
                _log.error("alert_refused", reason=errors.from_status(item.status).reason, detection=item.item_id)
        return created

    async def _call(self, request: alert_pb2.RaiseAlertsRequest) -> alert_pb2.RaiseAlertsResponse:
        backoff = _FIRST_BACKOFF
        while True:
            try:
                return await self._stub.RaiseAlerts(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    raise errors.from_rpc(error) from None
                _log.warning(
                    "alerts_wait", reason=error.code().name, alerts=len(request.candidates), retry_in_seconds=backoff
                )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)
