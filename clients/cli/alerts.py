"""Alerts: list and follow them, work them, and hand a shift over."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import grpc
import typer
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2

from clients.cli import output
from clients.cli.options import Cameras, Json, MinSeverity, Pois, Since, Until, Watchlists, a_time, interval, timestamp
from clients.cli.session import Mesh, execute, explain, pages
from mesh import names
from mesh.errors import from_rpc

_DEFAULT_LIMIT: Final = 50
_RECONNECT_SECONDS: Final = 0.5
_MAX_RECONNECT_SECONDS: Final = 5.0
_SUMMARY_SECONDS: Final = 60.0


class State(StrEnum):
    """As in the contract, for people to type."""

    NEW = "NEW"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    CONFIRMED = "CONFIRMED"
    FALSE_MATCH = "FALSE_MATCH"
    RESOLVED = "RESOLVED"

    @property
    def number(self) -> alert_pb2.AlertState.ValueType:
        """The contract's value."""
        return alert_pb2.AlertState.Value(f"ALERT_STATE_{self.value}")


class Event(StrEnum):
    """What happens to alerts, as in the contract, for people to type."""

    RAISED = "RAISED"
    SUPPRESSED = "SUPPRESSED"
    ESCALATED = "ESCALATED"
    EVIDENCE = "EVIDENCE"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    RESOLVED = "RESOLVED"
    ERASED = "ERASED"

    @property
    def number(self) -> alert_pb2.AlertEvent.ValueType:
        """The contract's value."""
        return alert_pb2.AlertEvent.Value(f"ALERT_EVENT_{self.value}")


_SAID: Final = {
    State.ACKNOWLEDGED: "acknowledgement",
    State.CONFIRMED: "confirmation",
    State.FALSE_MATCH: "rejection",
    State.RESOLVED: "resolution",
}
"""Where an alert says who brought it to a state."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(alerts)
    app.command()(ack)
    app.command()(confirm)
    app.command()(reject)
    app.command()(resolve)
    app.command()(shift)


def alerts(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as alerts come in.")] = False,
    since: Since = None,
    cursor: Annotated[str, typer.Option(metavar="CURSOR", help="Follow from there on, missing nothing.")] = "",
    state: Annotated[
        State | None, typer.Option(case_sensitive=False, help="Only in this state, or brought to it.")
    ] = None,
    min_severity: MinSeverity = None,
    camera: Cameras = None,
    poi: Pois = None,
    watchlist: Watchlists = None,
    event: Annotated[
        list[Event] | None,
        typer.Option("--event", case_sensitive=False, help="Only these events, when following (repeat)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many (50 in a list, no end when following).")
    ] = None,
    json: Json = False,
) -> None:
    """Lists the alerts, newest first, or follows what happens to them, oldest first.

    Following goes on over restarts of the server; when it ends it says the cursor to go on from.
    """
    mesh: Mesh = context.obj
    if since and cursor:
        raise typer.BadParameter("--since and --cursor both say where to begin: give one")
    if event and not (follow or cursor):
        raise typer.BadParameter("--event goes with --follow")

    async def run() -> None:
        least = min_severity.number if min_severity else common_pb2.SEVERITY_UNSPECIFIED
        cameras = [mesh.name(names.camera, each) for each in camera or ()]
        pois = [mesh.name(names.poi, each) for each in poi or ()]
        lists = [mesh.name(names.watchlist, each) for each in watchlist or ()]
        async with mesh.channel("alert") as channel:
            stub = alert_pb2_grpc.AlertServiceStub(channel)
            if follow or cursor:
                live = alert_pb2.StreamAlertsRequest(
                    parent=mesh.parent,
                    min_severity=least,
                    cameras=cameras,
                    pois=pois,
                    watchlists=lists,
                    states=[state.number] if state else [],
                )
                if since:
                    live.start_time.CopyFrom(timestamp(since))
                elif cursor:
                    live.cursor = cursor
                await _follow(stub, live, {each.number for each in event or Event}, limit, json)
                return
            request = alert_pb2.ListAlertsRequest(
                parent=mesh.parent,
                interval=interval(since, None),
                min_severity=least,
                cameras=cameras,
                pois=pois,
                watchlists=lists,
            )
            if state:
                request.state = state.number
            page = await pages(stub.ListAlerts, request, "alerts", limit or _DEFAULT_LIMIT)
        if json:
            output.print_json(page)
            return
        _print_alerts(page.alerts)
        output.print_more(page, limit or _DEFAULT_LIMIT)

    execute(run())


Alert = Annotated[str, typer.Argument(metavar="ALERT", help="Id or name of the alert.")]
Actor = Annotated[
    str, typer.Option(envvar="POI_ACTOR", help="Who does it: you, where it is not said.", default_factory=str)
]
Note = Annotated[str, typer.Option(help="What there is to say.")]
Etag = Annotated[str, typer.Option(help="Only if it still has this etag.")]


def ack(
    context: typer.Context, alert: Alert, actor: Actor, note: Note = "", etag: Etag = "", json: Json = False
) -> None:
    """Says that you look after an alert."""
    _act(context.obj, "AcknowledgeAlert", alert_pb2.AcknowledgeAlertRequest, alert, (actor, note, etag), json)


def confirm(
    context: typer.Context, alert: Alert, actor: Actor, note: Note = "", etag: Etag = "", json: Json = False
) -> None:
    """Says that it was the person."""
    _act(context.obj, "ConfirmAlert", alert_pb2.ConfirmAlertRequest, alert, (actor, note, etag), json)


def reject(
    context: typer.Context, alert: Alert, actor: Actor, note: Note = "", etag: Etag = "", json: Json = False
) -> None:
    """Says that it was somebody else: a false match, which closes the alert."""
    _act(context.obj, "RejectAlert", alert_pb2.RejectAlertRequest, alert, (actor, note, etag), json)


def resolve(
    context: typer.Context, alert: Alert, actor: Actor, note: Note = "", etag: Etag = "", json: Json = False
) -> None:
    """Says that an alert is done with."""
    _act(context.obj, "ResolveAlert", alert_pb2.ResolveAlertRequest, alert, (actor, note, etag), json)


def _act(mesh: Mesh, method: str, request: type[Any], alert: str, said: tuple[str, str, str], as_json: bool) -> None:
    actor, note, etag = said

    async def run() -> None:
        name = mesh.name(names.alert, alert)
        async with mesh.channel("alert") as channel:
            call = getattr(alert_pb2_grpc.AlertServiceStub(channel), method)
            changed: alert_pb2.Alert = await call(request(name=name, actor=mesh.actor(actor), note=note, etag=etag))
        if as_json:
            output.print_json(changed)
            return
        action: alert_pb2.AlertAction = getattr(changed, _SAID[State(_state(changed))])
        output.print_line(output.short(changed.name), _state(changed), f"by {action.actor}")

    execute(run())


def shift(
    context: typer.Context,
    since: Annotated[datetime, typer.Option(parser=a_time, metavar="TIME", help="Its start: as for alerts.")] = "8h",  # type: ignore[assignment]
    until: Until = None,
    json: Json = False,
) -> None:
    """Sums up a shift for the next one: what came, what was done about it and how fast, and what is open."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = alert_pb2.SummarizeAlertsRequest(parent=mesh.parent, interval=interval(since, until))
        async with mesh.channel("alert", seconds=_SUMMARY_SECONDS) as channel:
            found = await alert_pb2_grpc.AlertServiceStub(channel).SummarizeAlerts(request)
        if json:
            output.print_json(found)
            return
        span = (output.clock(found.interval.start_time), "to", output.clock(found.interval.end_time))
        output.print_line(*span)
        output.print_line(
            f"{found.alert_count} alerts, {found.suppressed_count} repeats, {found.escalated_count} escalated"
        )
        if found.HasField("acknowledge_p50"):
            output.print_line(
                f"answered within {output.seconds(found.acknowledge_p50)} (half), "
                f"{output.seconds(found.acknowledge_p95)} (95 %)"
            )
        output.print_table(
            ("BY", "WHAT", "ALERTS"),
            [
                *(("state", _state(each), each.count) for each in found.states),
                *(("severity", output.severity(each.severity), each.count) for each in found.severities),
                *(("camera", output.short(each.camera), each.count) for each in found.cameras),
                *(("person", each.display_name or output.short(each.poi), each.count) for each in found.pois),
            ],
            nothing="no alerts",
        )
        output.print_line(f"{found.open_count} open")
        if found.open_alerts:
            _print_alerts(found.open_alerts)

    execute(run())


async def _follow(
    stub: Any, request: alert_pb2.StreamAlertsRequest, events: Container[int], limit: int | None, as_json: bool
) -> None:
    seen, reached, pause = 0, "", _RECONNECT_SECONDS
    try:
        while True:
            try:
                async for response in stub.StreamAlerts(request):
                    reached = request.cursor = response.cursor  # takes the place of a start time
                    pause = _RECONNECT_SECONDS
                    if response.event not in events:  # nor is a heartbeat
                        continue
                    _print_event(response, as_json)
                    seen += 1
                    if seen == limit:
                        return
            except grpc.aio.AioRpcError as error:
                if not from_rpc(error).retryable:
                    raise
                output.complain(f"{explain(from_rpc(error))}: connecting again")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # By its channel, which has a new certificate and gave up on the old one.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_RECONNECT_SECONDS)
    finally:
        if reached:
            output.complain(f"go on with: poi alerts --cursor {reached}")


def _print_event(response: alert_pb2.StreamAlertsResponse, as_json: bool) -> None:
    if as_json:
        output.print_json(response, one_line=True)
        return
    alert = response.alert
    if not alert.match.poi:
        output.print_line(output.clock(alert.update_time), "ERASED", output.short(alert.name))
        return
    late = (alert.create_time.ToNanoseconds() - alert.detect_time.ToNanoseconds()) / 1e6
    output.print_line(
        output.clock(alert.update_time),
        alert_pb2.AlertEvent.Name(response.event).removeprefix("ALERT_EVENT_"),
        output.severity(alert.match.severity),
        alert.match.display_name or output.short(alert.match.poi),
        f"at {output.short(alert.camera)}",
        output.closeness(alert.match),
        f"{late:.0f} ms after the frame",
        output.short(alert.name),
        *_more(response.event, alert),
    )


def _more(event: int, alert: alert_pb2.Alert) -> Iterable[str]:
    """What an event is about, where that is not the alert as a whole."""
    if event == alert_pb2.ALERT_EVENT_ESCALATED and alert.escalations:
        reason = alert_pb2.EscalationReason.Name(alert.escalations[-1].reason)
        yield f"for {reason.removeprefix('ESCALATION_REASON_')}"
    if event == alert_pb2.ALERT_EVENT_SUPPRESSED:
        yield f"{alert.suppressed_count} repeats"
    if event == alert_pb2.ALERT_EVENT_EVIDENCE and alert.evidence.picture:  # erased with somebody else, it may be
        yield f"picture {output.short(alert.evidence.picture)}"
    if alert.runners_up:
        yield f"or {_runners_up(alert)}"


def _runners_up(alert: alert_pb2.Alert) -> str:
    return ", ".join(
        f"{each.display_name or output.short(each.poi)} {each.similarity:.2f}" for each in alert.runners_up
    )


def _print_alerts(found: Iterable[alert_pb2.Alert]) -> None:
    output.print_table(
        ("RAISED", "STATE", "SEVERITY", "WHO", "CAMERA", "SIMILARITY", "REPEATS", "OR", "PICTURE", "ALERT"),
        (
            (
                output.clock(alert.create_time),
                _state(alert),
                output.severity(alert.match.severity),
                alert.match.display_name or output.short(alert.match.poi),
                output.short(alert.camera),
                output.closeness(alert.match),
                alert.suppressed_count or "",
                _runners_up(alert),
                output.short(alert.evidence.picture),
                output.short(alert.name),
            )
            for alert in found
        ),
        nothing="no alerts",
    )


def _state(item: alert_pb2.Alert | alert_pb2.SummarizeAlertsResponse.StateCount) -> str:
    return alert_pb2.AlertState.Name(item.state).removeprefix("ALERT_STATE_")
