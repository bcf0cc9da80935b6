"""Targets of alerts: create, list, show, update, delete, test; their deliveries and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, delivery_pb2, delivery_pb2_grpc

from clients.cli import output
from clients.cli.alerts import Event
from clients.cli.options import Cameras, Json, Limit, MinSeverity, Pois, Severity, Watchlists
from clients.cli.session import Mesh, Refused, execute, pages
from mesh import names

_COLUMNS: Final = ("TARGET", "KIND", "WHERE", "STATE", "FAILURES", "DEAD", "LAST SUCCESS", "LAST ERROR")
_TEST_SECONDS: Final = 60.0

targets = typer.Typer(
    help="Who hears of alerts: webhooks, MQTT topics, WebSocket clients, the log.", no_args_is_help=True
)
dead_letters = typer.Typer(help="Deliveries that were given up.", no_args_is_help=True)


class State(StrEnum):
    """As in the contract, for people to type."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"
    REPLAYING = "REPLAYING"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (create, show, update, delete):
        targets.command()(command)
    targets.command("list")(list_targets)
    targets.command("test")(try_out)
    app.add_typer(targets, name="targets")
    app.command()(deliveries)
    dead_letters.command("list")(list_dead_letters)
    dead_letters.command()(replay)
    app.add_typer(dead_letters, name="dead-letters")


Target = Annotated[str, typer.Argument(metavar="TARGET", help="Id or name of the target.")]
Webhook = Annotated[str, typer.Option(metavar="URL", help="Post to this URL.")]
Secret = Annotated[str, typer.Option(envvar="POI_TARGET_SECRET", help="Key of the webhook's signature.")]
Headers = Annotated[list[str] | None, typer.Option("--header", metavar="NAME:VALUE", help="Send it along (repeat).")]
Topic = Annotated[str, typer.Option("--mqtt", metavar="TOPIC", help="Publish to this topic.")]
Broker = Annotated[str, typer.Option(metavar="URL", help="The topic's broker; the store's own otherwise.")]
Retain = Annotated[bool | None, typer.Option("--retain/--no-retain", help="Keep each person's last state there.")]
User = Annotated[str, typer.Option(help="Who to be at the broker.")]
Password = Annotated[str, typer.Option(envvar="POI_TARGET_PASSWORD", help="The password at the broker.")]
# An update must not change what only the environment says.
NewSecret = Annotated[str, typer.Option("--secret", help="New key of the webhook's signature.")]
NewPassword = Annotated[str, typer.Option("--password", help="New password at the broker.")]
Title = Annotated[str, typer.Option("--name", help="What operators call it.")]
Events = Annotated[
    list[Event] | None, typer.Option("--event", case_sensitive=False, help="Only these events (repeat).")
]
Enabled = Annotated[bool | None, typer.Option("--enable/--disable", help="Whether anything is delivered.")]
Etag = Annotated[str, typer.Option(help="Only if it still has this etag.")]


def create(
    context: typer.Context,
    target_id: Annotated[str, typer.Option("--id", help="Id to take; one is made otherwise.")] = "",
    webhook: Webhook = "",
    secret: Secret = "",
    header: Headers = None,
    mqtt: Topic = "",
    broker: Broker = "",
    retain: Retain = None,
    user: User = "",
    password: Password = "",
    websocket: Annotated[bool, typer.Option("--websocket", help="Clients connect to the alert server.")] = False,
    log: Annotated[bool, typer.Option("--log", help="A line in the alert server's log.")] = False,
    name: Title = "",
    min_severity: MinSeverity = None,
    camera: Cameras = None,
    poi: Pois = None,
    watchlist: Watchlists = None,
    event: Events = None,
    enable: Enabled = None,
    json: Json = False,
) -> None:
    """Adds a target: one of --webhook, --mqtt, --websocket, --log. It hears of what happens from now on."""
    mesh: Mesh = context.obj
    if sum(map(bool, (webhook, mqtt, websocket, log))) != 1:
        raise typer.BadParameter("exactly one of --webhook, --mqtt, --websocket and --log is needed")
    wanted = delivery_pb2.Target(display_name=name, enabled=enable is not False)
    _filter(mesh, wanted, min_severity, (camera, poi, watchlist), event)
    if webhook:
        wanted.webhook.url, wanted.webhook.secret = webhook, secret
        wanted.webhook.headers.update(_headers(header))
    elif mqtt:
        wanted.mqtt.topic, wanted.mqtt.broker_url, wanted.mqtt.retain_last_state = mqtt, broker, bool(retain)
        wanted.mqtt.username, wanted.mqtt.password = user, password
    elif websocket:
        wanted.websocket.SetInParent()
    else:
        wanted.log.SetInParent()
    request = delivery_pb2.CreateTargetRequest(parent=mesh.parent, target=wanted, target_id=target_id)
    _run(mesh, lambda stub: stub.CreateTarget(request), lambda made: _table([made]), json)


def list_targets(context: typer.Context, limit: Limit = 100, json: Json = False) -> None:
    """Lists the targets and how delivery to them goes."""
    mesh: Mesh = context.obj

    def told(page: delivery_pb2.ListTargetsResponse) -> None:
        _table(list(page.targets))
        output.print_more(page, limit)

    request = delivery_pb2.ListTargetsRequest(parent=mesh.parent)
    _run(mesh, lambda stub: pages(stub.ListTargets, request, "targets", limit), told, json)


def show(context: typer.Context, target: Target, json: Json = False) -> None:
    """Shows a target."""
    mesh: Mesh = context.obj
    request = delivery_pb2.GetTargetRequest(name=mesh.name(names.target, target))
    _run(mesh, lambda stub: stub.GetTarget(request), lambda found: _table([found]), json)


def update(
    context: typer.Context,
    target: Target,
    webhook: Webhook = "",
    secret: NewSecret = "",
    header: Headers = None,
    mqtt: Topic = "",
    broker: Broker = "",
    retain: Retain = None,
    user: User = "",
    password: NewPassword = "",
    name: Title = "",
    min_severity: MinSeverity = None,
    camera: Cameras = None,
    poi: Pois = None,
    watchlist: Watchlists = None,
    event: Events = None,
    everything: Annotated[bool, typer.Option("--everything", help="Hear of everything: no filter.")] = False,
    enable: Enabled = None,
    etag: Etag = "",
    json: Json = False,
) -> None:
    """Changes what is said of a target; the rest stays. What it is to hear of is said as a whole."""
    mesh: Mesh = context.obj
    wanted = delivery_pb2.Target(name=mesh.name(names.target, target), etag=etag, display_name=name)
    filtered = _filter(mesh, wanted, min_severity, (camera, poi, watchlist), event)
    if filtered and everything:
        raise typer.BadParameter("--everything and a filter exclude each other")
    paths = ["display_name"] * bool(name) + ["filter"] * (filtered or everything)
    if enable is not None:
        wanted.enabled = enable
        paths.append("enabled")
    if header:
        wanted.webhook.headers.update(_headers(header))
        paths.append("webhook.headers")
    if retain is not None:
        wanted.mqtt.retain_last_state = retain
        paths.append("mqtt.retain_last_state")
    for kind, field, value in (
        ("webhook", "url", webhook),
        ("webhook", "secret", secret),
        ("mqtt", "topic", mqtt),
        ("mqtt", "broker_url", broker),
        ("mqtt", "username", user),
        ("mqtt", "password", password),
    ):
        if value:
            setattr(getattr(wanted, kind), field, value)
            paths.append(f"{kind}.{field}")
    if not paths:
        raise typer.BadParameter("nothing to change was said")
    request = delivery_pb2.UpdateTargetRequest(target=wanted, update_mask=FieldMask(paths=paths))
    _run(mesh, lambda stub: stub.UpdateTarget(request), lambda made: _table([made]), json)


def delete(context: typer.Context, target: Target, etag: Etag = "", json: Json = False) -> None:
    """Removes a target with its deliveries and dead letters."""
    mesh: Mesh = context.obj
    name = mesh.name(names.target, target)
    request = delivery_pb2.DeleteTargetRequest(name=name, etag=etag)
    _run(
        mesh,
        lambda stub: stub.DeleteTarget(request),
        lambda _: output.print_line(output.short(name), "deleted"),
        json,
    )


def try_out(context: typer.Context, target: Target, json: Json = False) -> None:
    """Sends a test message to a target, and says how it went; status 1 when it did not."""
    mesh: Mesh = context.obj
    name = mesh.name(names.target, target)

    async def run() -> None:
        async with mesh.channel("alert", seconds=_TEST_SECONDS) as channel:
            stub = delivery_pb2_grpc.DeliveryServiceStub(channel)
            outcome = await stub.TestTarget(delivery_pb2.TestTargetRequest(name=name))
        if json:
            output.print_json(outcome)
        elif outcome.delivered:
            milliseconds = outcome.latency.ToNanoseconds() / 1e6
            output.print_line(output.short(name), "DELIVERED", f"in {milliseconds:.0f} ms")
        if not outcome.delivered:
            raise Refused(f"{output.short(name)}: {outcome.error}")

    execute(run())


def deliveries(
    context: typer.Context,
    target: Target,
    state: Annotated[State | None, typer.Option(case_sensitive=False, help="Only in this state.")] = None,
    alert: Annotated[str, typer.Option(metavar="ALERT", help="Only of this alert.")] = "",
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Lists the deliveries of a target, newest first."""
    mesh: Mesh = context.obj
    request = delivery_pb2.ListDeliveriesRequest(
        parent=mesh.name(names.target, target), alert=mesh.name(names.alert, alert) if alert else ""
    )
    if state:
        request.state = delivery_pb2.DeliveryState.Value(f"DELIVERY_STATE_{state}")
    _deliveries(mesh, request, limit, json, nothing="no deliveries")


def list_dead_letters(context: typer.Context, target: Target, limit: Limit = 50, json: Json = False) -> None:
    """Lists the dead letters of a target, newest first."""
    mesh: Mesh = context.obj
    request = delivery_pb2.ListDeliveriesRequest(
        parent=mesh.name(names.target, target), state=delivery_pb2.DELIVERY_STATE_DEAD
    )
    _deliveries(mesh, request, limit, json, nothing="no dead letters")


def replay(
    context: typer.Context,
    target: Target,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[DELIVERY]...", help="Only these; all otherwise.")] = None,
    json: Json = False,
) -> None:
    """Takes dead letters of a target back into delivery."""
    mesh: Mesh = context.obj
    parent = mesh.name(names.target, target)
    wanted = [each if each.startswith("stores/") else f"{parent}/deliveries/{each}" for each in ids or ()]
    request = delivery_pb2.ReplayDeliveriesRequest(parent=parent, deliveries=wanted)
    _run(
        mesh,
        lambda stub: stub.ReplayDeliveries(request),
        lambda done: output.print_line(output.short(parent), f"{done.replayed_count} replayed"),
        json,
    )


def _run(
    mesh: Mesh, call: Callable[[Any], Coroutine[Any, Any, Any]], told: Callable[[Any], None], as_json: bool
) -> None:
    async def run() -> None:
        async with mesh.channel("alert") as channel:
            answer = await call(delivery_pb2_grpc.DeliveryServiceStub(channel))
        if as_json:
            output.print_json(answer)
        else:
            told(answer)

    execute(run())


def _deliveries(
    mesh: Mesh, request: delivery_pb2.ListDeliveriesRequest, limit: int, as_json: bool, *, nothing: str
) -> None:
    def told(page: delivery_pb2.ListDeliveriesResponse) -> None:
        rows = (
            (
                output.short(each.name),
                delivery_pb2.DeliveryState.Name(each.state).removeprefix("DELIVERY_STATE_"),
                alert_pb2.AlertEvent.Name(each.event).removeprefix("ALERT_EVENT_"),
                output.short(each.alert),
                each.attempt_count,
                output.clock(each.event_time),
                output.clock(each.last_attempt_time),
                output.clock(each.next_attempt_time),
                each.last_error,
            )
            for each in page.deliveries
        )
        columns = ("DELIVERY", "STATE", "EVENT", "ALERT", "ATTEMPTS", "HAPPENED", "LAST TRY", "NEXT TRY", "ERROR")
        output.print_table(columns, rows, nothing=nothing)
        output.print_more(page, limit)

    _run(mesh, lambda stub: pages(stub.ListDeliveries, request, "deliveries", limit), told, as_json)


def _table(found: list[delivery_pb2.Target]) -> None:
    output.print_table(_COLUMNS, map(_row, found), nothing="no targets")


def _row(target: delivery_pb2.Target) -> tuple[object, ...]:
    status = target.status
    return (
        output.short(target.name),
        target.WhichOneof("kind"),
        target.webhook.url or target.mqtt.topic,
        delivery_pb2.TargetState.Name(status.state).removeprefix("TARGET_STATE_"),
        status.consecutive_failures,
        status.dead_letter_count,
        output.clock(status.last_success_time),
        status.last_error,
    )


def _filter(
    mesh: Mesh,
    target: delivery_pb2.Target,
    min_severity: Severity | None,
    named: tuple[list[str] | None, list[str] | None, list[str] | None],
    events: list[Event] | None,
) -> bool:
    """Fills in what the target is to hear of; whether anything was said of that."""
    wanted, (cameras, pois, watchlists) = target.filter, named
    if min_severity:
        wanted.min_severity = min_severity.number
    wanted.cameras.extend(mesh.name(names.camera, each) for each in cameras or ())
    wanted.pois.extend(mesh.name(names.poi, each) for each in pois or ())
    wanted.watchlists.extend(mesh.name(names.watchlist, each) for each in watchlists or ())
    wanted.events.extend(each.number for each in events or ())
    return wanted.ByteSize() > 0


def _headers(given: list[str] | None) -> dict[str, str]:
    found = {}
    for each in given or ():
        name, colon, value = each.partition(":")
        if not colon:
            raise typer.BadParameter(f"{name!r} is not NAME:VALUE")
        found[name.strip()] = value.strip()
    return found
