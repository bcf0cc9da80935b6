"""Watchlists: create, list, show, update, delete; who is on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Final

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import match_pb2, poi_pb2, poi_pb2_grpc, watchlist_pb2, watchlist_pb2_grpc

from clients.cli import output
from clients.cli.listing import a_duration, an_override, duration, some_hours, span
from clients.cli.options import Etag, Json, Limit, Severity, changes
from clients.cli.session import Mesh, execute, pages
from mesh import names

_COLUMNS: Final = ("WATCHLIST", "NAME", "SEVERITY", "THRESHOLD", "ALIGNED", "OTHERS", "PERSONS", "CAMERAS", "HOURS")

watchlists = typer.Typer(help="Which persons alert where, when, how strictly and how urgently.", no_args_is_help=True)


class Field(StrEnum):
    """What can be taken back of a list, for people to type."""

    PURPOSE = "purpose"
    THRESHOLD = "threshold"
    SEVERITY = "severity"
    CAMERAS = "cameras"
    HOURS = "hours"
    TIME_ZONE = "time-zone"
    RETENTION = "retention"
    OVERRIDES = "overrides"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    watchlists.command("list")(list_watchlists)
    watchlists.command("get")(get)
    for command in (create, update, delete, add, remove):
        watchlists.command()(command)
    app.add_typer(watchlists, name="watchlists")


Watchlist = Annotated[str, typer.Argument(metavar="WATCHLIST", help="Id or name of the list.")]
Person = Annotated[str, typer.Argument(metavar="POI", help="Id or name of the person.")]
Title = Annotated[str, typer.Option("--name", help="What operators call it.")]
Purpose = Annotated[str, typer.Option(help="What its persons are enrolled for.")]
Cosine = Annotated[float | None, typer.Option(min=0.2, max=0.99, help="Least similarity that is a match.")]
Rate = Annotated[
    float | None, typer.Option(min=1e-9, max=0.1, help="Instead: how often a stranger may match anybody on it.")
]
Urgency = Annotated[Severity | None, typer.Option("--severity", case_sensitive=False, help="How much they matter.")]
Where = Annotated[list[str] | None, typer.Option("--camera", metavar="CAMERA", help="Only there (repeat).")]
When = Annotated[
    list[str] | None,
    typer.Option("--hours", metavar="SPAN", help="Only then: '22:00-06:00', 'mon-fri,sun 22:00-06:00' (repeat)."),
]
Zone = Annotated[str, typer.Option("--time-zone", metavar="ZONE", help="Of the hours: Europe/Berlin; UTC otherwise.")]
Stay = Annotated[str, typer.Option("--retention", metavar="TIME", help="How long persons stay enrolled: 30d, 12h.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override", metavar="TEXT", help="On these cameras: 'till-1,till-2 cosine=0.5 severity=high' (repeat)."
    ),
]


def list_watchlists(context: typer.Context, limit: Limit = 100, json: Json = False) -> None:
    """Lists the watchlists."""
    mesh: Mesh = context.obj

    async def ask(stub: watchlist_pb2_grpc.WatchlistServiceAsyncStub) -> watchlist_pb2.ListWatchlistsResponse:
        request = watchlist_pb2.ListWatchlistsRequest(parent=mesh.parent)
        page: watchlist_pb2.ListWatchlistsResponse = await pages(stub.ListWatchlists, request, "watchlists", limit)
        return page

    def show(page: watchlist_pb2.ListWatchlistsResponse) -> None:
        _table(page.watchlists)
        output.print_more(page, limit)

    _run(mesh, ask, show, json)


def get(context: typer.Context, watchlist: Watchlist, json: Json = False) -> None:
    """Shows all of a list."""
    mesh: Mesh = context.obj
    _run(
        mesh,
        lambda stub: stub.GetWatchlist(watchlist_pb2.GetWatchlistRequest(name=mesh.name(names.watchlist, watchlist))),
        _show,
        json,
    )


def create(
    context: typer.Context,
    watchlist: Annotated[str, typer.Argument(metavar="WATCHLIST", help="Id to take.")],
    name: Title = "",
    purpose: Purpose = "",
    cosine: Cosine = None,
    rate: Rate = None,
    severity: Urgency = None,
    camera: Where = None,
    hours: When = None,
    time_zone: Zone = "",
    retention: Stay = "",
    override: Overrides = None,
    json: Json = False,
) -> None:
    """Makes a list; with nothing else said it applies everywhere and always, by the store's threshold."""
    mesh: Mesh = context.obj

    def request() -> watchlist_pb2.CreateWatchlistRequest:
        wanted = _wanted(
            mesh, name or watchlist, purpose, cosine, rate, severity, camera, hours, time_zone, retention, override
        )
        return watchlist_pb2.CreateWatchlistRequest(parent=mesh.parent, watchlist_id=watchlist, watchlist=wanted)

    _run(mesh, lambda stub: stub.CreateWatchlist(request()), lambda made: _table([made]), json)


def update(
    context: typer.Context,
    watchlist: Watchlist,
    name: Title = "",
    purpose: Purpose = "",
    cosine: Cosine = None,
    rate: Rate = None,
    severity: Urgency = None,
    camera: Where = None,
    hours: When = None,
    time_zone: Zone = "",
    retention: Stay = "",
    override: Overrides = None,
    clear: Annotated[
        list[Field] | None, typer.Option(case_sensitive=False, help="Say nothing of this any more (repeat).")
    ] = None,
    etag: Etag = "",
    json: Json = False,
) -> None:
    """Changes what is said of a list; the rest stays."""
    mesh: Mesh = context.obj

    def request() -> watchlist_pb2.UpdateWatchlistRequest:
        wanted = _wanted(mesh, name, purpose, cosine, rate, severity, camera, hours, time_zone, retention, override)
        mask = changes(wanted, clear or ())
        wanted.name, wanted.etag = mesh.name(names.watchlist, watchlist), etag
        return watchlist_pb2.UpdateWatchlistRequest(watchlist=wanted, update_mask=mask)

    _run(mesh, lambda stub: stub.UpdateWatchlist(request()), lambda made: _table([made]), json)


def delete(context: typer.Context, watchlist: Watchlist, etag: Etag = "", json: Json = False) -> None:
    """Removes a list that nobody is on."""
    mesh: Mesh = context.obj
    _run(
        mesh,
        lambda stub: stub.DeleteWatchlist(
            watchlist_pb2.DeleteWatchlistRequest(name=mesh.name(names.watchlist, watchlist), etag=etag)
        ),
        lambda _: output.print_line(output.short(watchlist), "deleted"),
        json,
    )


def add(context: typer.Context, watchlist: Watchlist, poi: Person, json: Json = False) -> None:
    """Puts a person on a list."""
    _relist(context.obj, watchlist, poi, json, lambda lists, name: [*lists, *({name} - {*lists})])


def remove(context: typer.Context, watchlist: Watchlist, poi: Person, json: Json = False) -> None:
    """Takes a person off a list. On no list they are matched everywhere and always."""
    _relist(context.obj, watchlist, poi, json, lambda lists, name: [one for one in lists if one != name])


def _relist(mesh: Mesh, watchlist: str, poi: str, json: bool, change: Callable[[list[str], str], list[str]]) -> None:
    async def run() -> None:
        name, person = mesh.name(names.watchlist, watchlist), mesh.name(names.poi, poi)
        async with mesh.channel("match") as channel:
            stub = poi_pb2_grpc.PoiServiceStub(channel)
            before = await stub.GetPoi(poi_pb2.GetPoiRequest(name=person))
            wanted = poi_pb2.Poi(name=person, etag=before.etag, watchlists=change(list(before.watchlists), name))
            after = await stub.UpdatePoi(
                poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=FieldMask(paths=["watchlists"]))
            )
        if json:
            output.print_json(after)
        else:
            lists = ", ".join(map(output.short, after.watchlists))
            output.print_line(output.short(person), f"on {lists}" if lists else "on no list: matched everywhere")

    execute(run())


def _wanted(
    mesh: Mesh,
    name: str,
    purpose: str,
    cosine: float | None,
    rate: float | None,
    severity: Severity | None,
    cameras: list[str] | None,
    hours: list[str] | None,
    time_zone: str,
    retention: str,
    overrides: list[str] | None,
) -> watchlist_pb2.Watchlist:
    wanted = watchlist_pb2.Watchlist(display_name=name, purpose=purpose, time_zone=time_zone)
    if cosine is not None and rate is not None:
        raise typer.BadParameter("--cosine and --rate exclude each other")
    if cosine is not None:
        wanted.threshold.cosine = cosine
    if rate is not None:
        wanted.threshold.false_match_rate = rate
    if severity:
        wanted.severity = severity.number
    wanted.cameras.extend(mesh.name(names.camera, one) for one in cameras or ())
    wanted.hours.extend(map(some_hours, hours or ()))
    if retention:
        wanted.retention.CopyFrom(a_duration(retention))
    camera = partial(mesh.name, names.camera)
    wanted.overrides.extend(an_override(text, camera) for text in overrides or ())
    return wanted


def _run(
    mesh: Mesh,
    call: Callable[[watchlist_pb2_grpc.WatchlistServiceAsyncStub], Awaitable[Any]],
    show: Callable[[Any], None],
    json: bool,
) -> None:
    async def run() -> None:
        async with mesh.channel("match") as channel:
            answer = await call(watchlist_pb2_grpc.WatchlistServiceStub(channel))
        if json:
            output.print_json(answer)
        else:
            show(answer)

    execute(run())


def _table(lists: Iterable[watchlist_pb2.Watchlist]) -> None:
    output.print_table(_COLUMNS, map(_row, lists), nothing="there are no watchlists")


def _row(watchlist: watchlist_pb2.Watchlist) -> tuple[object, ...]:
    return (
        output.short(watchlist.name),
        watchlist.display_name,
        output.severity(watchlist.severity),
        threshold(watchlist.threshold) if watchlist.HasField("threshold") else "the store's",
        f"{watchlist.effective.aligned:.3f}",
        f"{watchlist.effective.unaligned:.3f}",
        watchlist.poi_count,
        ", ".join(map(output.short, watchlist.cameras)) or "all",
        "; ".join(map(span, watchlist.hours)) or "always",
    )


def _show(watchlist: watchlist_pb2.Watchlist) -> None:
    _table([watchlist])
    lines = [
        ("purpose", watchlist.purpose),
        ("time zone", watchlist.time_zone or "UTC"),
        ("retention", duration(watchlist.retention) if watchlist.HasField("retention") else ""),
        ("changed", output.clock(watchlist.update_time)),
        ("etag", watchlist.etag),
    ]
    for override in watchlist.overrides:
        told = threshold(override.threshold) if override.HasField("threshold") else ""
        where = ", ".join(map(output.short, override.cameras))
        lines.append((f"on {where}", " ".join(filter(None, (told, output.severity(override.severity))))))
    for what, text in lines:
        if text:
            output.print_line(what, text)


def threshold(value: match_pb2.Threshold) -> str:
    """A cosine, or a rate as one in so many."""
    if value.WhichOneof("kind") == "cosine":
        return f"{value.cosine:.2f}"
    return f"1 in {1 / value.false_match_rate:,.0f}"
