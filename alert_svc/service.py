"""poi.v1.AlertService: translates between the contract and the alert log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2

from alert_svc import metrics, stream, summary, triage
from alert_svc.alerts import new_alert, requested
from alert_svc.export.exporter import Exporter
from alert_svc.log import AlertLog
from alert_svc.policy import settings_store
from alert_svc.times import now
from alert_svc.triage import Action
from mesh import errors, names, pages
from mesh.streams import until_drained

SERVICE: Final = "poi.v1.AlertService"
_ActionRequest: TypeAlias = (
    alert_pb2.AcknowledgeAlertRequest
    | alert_pb2.ConfirmAlertRequest
    | alert_pb2.RejectAlertRequest
    | alert_pb2.ResolveAlertRequest
)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only


class AlertServicer(alert_pb2_grpc.AlertServiceServicer):
    """The contract's methods."""

    def __init__(
        self, log: AlertLog, exporter: Exporter, draining: asyncio.Event, *, slow_seconds: float = 10.0
    ) -> None:
        """`draining`: set when the server is about to stop, which ends the streams.

        `slow_seconds`: a client that takes longer to take a response is cut off.
        """
        self._log, self._draining, self._slow_seconds = log, draining, slow_seconds
        self._exporter = exporter

    async def RaiseAlerts(
        self, request: alert_pb2.RaiseAlertsRequest, context: Context
    ) -> alert_pb2.RaiseAlertsResponse:
        """One alert for each person and appearance that is no repeat; bad candidates are answered one by one."""
        (store_id,) = names.parse_store(request.parent)
        response, alerts, time = alert_pb2.RaiseAlertsResponse(), list[alert_pb2.Alert](), now()
        for index, candidate in enumerate(request.candidates):
            raised = response.alerts.add()
            try:
                alert = new_alert(candidate, store_id, time, f"candidates[{index}]")
            except errors.InvalidArgument as error:
                status = errors.to_status(error)
                response.errors.append(common_pb2.ItemError(index=index, item_id=candidate.detection_id, status=status))
            else:
                raised.alert = alert.name
                alerts.append(alert)
        outcome = iter(await self._log.raise_all(store_id, alerts) if alerts else [])
        for raised in response.alerts:
            if raised.alert:
                what = next(outcome)
                raised.alert, raised.created, raised.suppressed, raised.runner_up, raised.rejected = what[:5]
                raised.escalation_similarity = what.escalates_at
        fresh = sum(raised.created for raised in response.alerts)
        suppressed = sum(raised.suppressed for raised in response.alerts)
        metrics.RAISED.inc(fresh)
        metrics.SUPPRESSED.inc(suppressed)
        runners_up = sum(raised.runner_up for raised in response.alerts)
        rejected = sum(raised.rejected for raised in response.alerts)
        metrics.RUNNERS_UP.inc(runners_up)
        metrics.REJECTED.inc(rejected)
        metrics.DUPLICATES.inc(len(alerts) - fresh - suppressed - runners_up - rejected)
        metrics.REFUSED.inc(len(response.errors))
        return response

    async def StreamAlerts(
        self, request: alert_pb2.StreamAlertsRequest, context: Context
    ) -> AsyncIterator[alert_pb2.StreamAlertsResponse]:
        """The log after the start that was asked for, then live, until the client leaves or the server drains."""
        (store_id,) = names.parse_store(request.parent)
        wanted = requested(request, store_id, request.states)
        if request.WhichOneof("start") == "cursor" and not request.cursor:
            raise errors.InvalidArgument(violations=[("cursor", "must not be empty")], reason="INVALID_CURSOR")
        start_time = _time(request, "start_time")
        responses = stream.responses(
            self._log,
            store_id,
            wanted,
            cursor=request.cursor,
            start_time=start_time,
            slow_seconds=self._slow_seconds,
        )
        async with aclosing(until_drained(responses, self._draining)) as live:
            async for response in live:
                yield response

    async def ListAlerts(self, request: alert_pb2.ListAlertsRequest, context: Context) -> alert_pb2.ListAlertsResponse:
        """A page of alerts, newest first."""
        (store_id,) = names.parse_store(request.parent)
        alerts, before = await self._log.list(
            store_id,
            requested(request, store_id, [request.state]),
            start=_time(request.interval, "start_time", "interval."),
            end=_time(request.interval, "end_time", "interval."),
            before=pages.decode(request.page_token, request, before=pages.text).get("before", ""),
            limit=pages.clamp(request.page_size, 50, 1000),
        )
        token = pages.encode({"before": before}, request) if before else ""
        return alert_pb2.ListAlertsResponse(alerts=alerts, next_page_token=token)

    async def GetAlert(self, request: alert_pb2.GetAlertRequest, context: Context) -> alert_pb2.Alert:
        """One alert."""
        return await self._log.get(request.name)

    async def AcknowledgeAlert(self, request: alert_pb2.AcknowledgeAlertRequest, context: Context) -> alert_pb2.Alert:
        """Somebody looks after it."""
        return await self._act(request, triage.ACKNOWLEDGED)

    async def ConfirmAlert(self, request: alert_pb2.ConfirmAlertRequest, context: Context) -> alert_pb2.Alert:
        """It was the person."""
        return await self._act(request, triage.CONFIRMED)

    async def RejectAlert(self, request: alert_pb2.RejectAlertRequest, context: Context) -> alert_pb2.Alert:
        """It was somebody else."""
        return await self._act(request, triage.FALSE_MATCH)

    async def ResolveAlert(self, request: alert_pb2.ResolveAlertRequest, context: Context) -> alert_pb2.Alert:
        """It is done with."""
        return await self._act(request, triage.RESOLVED)

    async def ExportAlert(
        self, request: alert_pb2.ExportAlertRequest, context: Context
    ) -> AsyncIterator[alert_pb2.ExportAlertResponse]:
        """A case file of an alert, in pieces."""
        async with aclosing(self._exporter.export(request.name, request.actor, request.purpose)) as pieces:
            async for piece in pieces:
                yield alert_pb2.ExportAlertResponse(data=piece)

    async def SummarizeAlerts(
        self, request: alert_pb2.SummarizeAlertsRequest, context: Context
    ) -> alert_pb2.SummarizeAlertsResponse:
        """A shift for the next one."""
        (store_id,) = names.parse_store(request.parent)
        start = _time(request.interval, "start_time", "interval.")
        end = _time(request.interval, "end_time", "interval.")
        return await summary.summarize(self._log, store_id, start, end or now())

    async def GetAlertSettings(
        self, request: alert_pb2.GetAlertSettingsRequest, context: Context
    ) -> alert_pb2.AlertSettings:
        """The store's settings, defaults filled in."""
        return (await self._log.policies.of(settings_store(request.name, "name"))).resource(request.name)

    async def UpdateAlertSettings(
        self, request: alert_pb2.UpdateAlertSettingsRequest, context: Context
    ) -> alert_pb2.AlertSettings:
        """Changes the store's settings."""
        wanted = request.alert_settings
        store_id = settings_store(wanted.name, "alert_settings.name")
        policy = await self._log.policies.update(store_id, wanted, list(request.update_mask.paths))
        return policy.resource(wanted.name)

    async def _act(self, request: _ActionRequest, state: alert_pb2.AlertState.ValueType) -> alert_pb2.Alert:
        return await self._log.act(request.name, Action(state, request.actor, request.note, request.etag))


def _time(
    message: alert_pb2.StreamAlertsRequest | common_pb2.Interval, field: str, prefix: str = ""
) -> Timestamp | None:
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    value: Timestamp = getattr(message, field)
    try:
        value.ToDatetime()
    except (ValueError, OverflowError):
        raise errors.InvalidArgument(violations=[(f"{prefix}{field}", "is not a time")]) from None
    return value
