"""When alerts are suppressed and escalated: show and change it, with other windows for some lists, cameras, people."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, alert_pb2_grpc

from clients.cli import output
from clients.cli.options import Json
from clients.cli.session import Mesh, execute
from mesh import names

_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, None: 1000}
_PARTS: Final = {"list": "watchlists", "camera": "cameras", "poi": "pois"}
_NAMES: Final = {"list": names.watchlist, "camera": names.camera, "poi": names.poi}


class Scope(StrEnum):
    """Where a person must appear again to be a repeat."""

    CAMERA = "camera"
    STORE = "store"

    @property
    def number(self) -> alert_pb2.SuppressionScope.ValueType:
        """The contract's value."""
        is_store = self is Scope.STORE
        return alert_pb2.SUPPRESSION_SCOPE_POI if is_store else alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA


def a_length(text: str) -> Duration:
    """`30s`, `5m`, `2h` or seconds. Raises BadParameter."""
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not like 30s, 5m or 2h")
    made = Duration()
    made.FromMilliseconds(round(float(found[1]) * _MILLISECONDS[found[2]]))
    return made


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("alert-settings")(alert_settings)


def alert_settings(
    context: typer.Context,
    window: Annotated[
        Duration | None,
        typer.Option(parser=a_length, metavar="TIME", help="Who appears again within 30s, 5m, 2h adds to the alert."),
    ] = None,
    scope: Annotated[Scope | None, typer.Option(help="Again on the same camera, or anywhere in the store.")] = None,
    margin: Annotated[
        float | None, typer.Option(metavar="COSINE", help="A match that is better by so much escalates.")
    ] = None,
    delay: Annotated[
        Duration | None,
        typer.Option(parser=a_length, metavar="TIME", help="A HIGH alert nobody looks at for so long escalates."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="Another window for some, as `list=vip,camera=door,poi=p7,window=1h,scope=store`; the first of these "
            "that fits holds (repeat). They take the place of all rules before.",
        ),
    ] = None,
    no_rules: Annotated[bool, typer.Option("--no-rules", help="Take all rules back.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the server is set to.")] = False,
    json: Json = False,
) -> None:
    """Shows when alerts are suppressed and escalated, after changing what is said."""
    mesh: Mesh = context.obj
    name = f"{mesh.parent}/alertSettings"
    wanted = alert_pb2.AlertSettings(
        name=name, suppression_window=window, escalation_margin=margin, escalation_delay=delay
    )
    if scope:
        wanted.suppression_scope = scope.number
    wanted.suppression_rules.extend(_rule(mesh, each) for each in rule or ())
    if rule and no_rules:
        raise typer.BadParameter("--rule and --no-rules exclude each other")
    paths = [field.name for field, _ in wanted.ListFields() if field.name != "name"]
    if no_rules:
        paths.append("suppression_rules")
    if reset and paths:
        raise typer.BadParameter("--reset goes alone")

    async def run() -> None:
        async with mesh.channel("alert") as channel:
            stub = alert_pb2_grpc.AlertServiceStub(channel)
            if paths or reset:
                mask = FieldMask(paths=["*"] if reset else paths)
                request = alert_pb2.UpdateAlertSettingsRequest(alert_settings=wanted, update_mask=mask)
                found = await stub.UpdateAlertSettings(request)
            else:
                found = await stub.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=name))
        if json:
            output.print_json(found)
        else:
            _print(found)

    execute(run())


def _rule(mesh: Mesh, text: str) -> alert_pb2.SuppressionRule:
    made = alert_pb2.SuppressionRule(scope=alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA)
    for part in text.split(","):
        key, _, value = (each.strip() for each in part.partition("="))
        if key in _PARTS and value:
            getattr(made, _PARTS[key]).append(mesh.name(_NAMES[key], value))
        elif key == "window":
            made.window.CopyFrom(a_length(value))
        elif key == "scope" and value in list(Scope):
            made.scope = Scope(value).number
        else:
            raise typer.BadParameter(f"{part!r} is none of list=, camera=, poi=, window=TIME, scope=camera|store")
    if not made.HasField("window"):
        raise typer.BadParameter(f"{text!r} says no window=TIME")
    return made


def _print(found: alert_pb2.AlertSettings) -> None:
    delay = found.escalation_delay
    output.print_line(f"a match that is better by {found.escalation_margin:.2f} escalates")
    waits = f"after {_length(delay)} unseen" if delay.ToMilliseconds() else "never for being unseen"
    output.print_line(f"a HIGH alert escalates {waits}")
    last = alert_pb2.SuppressionRule(window=found.suppression_window, scope=found.suppression_scope)
    output.print_table(
        ("LIST", "CAMERA", "PERSON", "REPEATS WITHIN", "ON"),
        [
            (
                *(", ".join(map(output.short, getattr(each, part))) or "all" for part in _PARTS.values()),
                _length(each.window) if each.window.ToMilliseconds() else "none",
                "any camera" if each.scope == alert_pb2.SUPPRESSION_SCOPE_POI else "the same camera",
            )
            for each in (*found.suppression_rules, last)
        ],
        nothing="",
    )


def _length(duration: Duration) -> str:
    seconds = duration.ToMilliseconds() / 1000
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:g} s"
