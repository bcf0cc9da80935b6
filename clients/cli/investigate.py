"""Investigations: where and when a person appeared, which way they went, and the frames that show it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from poi.v1 import history_pb2, history_pb2_grpc

from clients.cli import output
from clients.cli.options import Cameras, Json, Limit, Since, Until, interval
from clients.cli.photos import fitted
from clients.cli.session import Mesh, execute, pages, read_image
from mesh import names

_IMAGE_SECONDS: Final = 30.0

Photos = Annotated[
    list[Path] | None, typer.Argument(metavar="IMAGE", help="Photos of one person, one face on each, 10 at most.")
]
ByPoi = Annotated[str, typer.Option("--poi", metavar="POI", help="Instead of photos: a person of interest.")]
ByAppearance = Annotated[str, typer.Option("--appearance", metavar="A", help="Instead of photos: who appeared there.")]
MinSimilarity = Annotated[float | None, typer.Option(min=0, max=1, help="Least cosine similarity.")]


class Order(StrEnum):
    """As in the contract, for people to type."""

    SIMILARITY = "SIMILARITY"
    TIME = "TIME"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(search)
    app.command()(journey)
    app.command()(frames)
    app.command()(frame)


def search(
    context: typer.Context,
    images: Photos = None,
    poi: ByPoi = "",
    appearance: ByAppearance = "",
    since: Since = None,
    until: Until = None,
    camera: Cameras = None,
    min_similarity: MinSimilarity = None,
    order: Annotated[
        Order, typer.Option(case_sensitive=False, help="Most similar first, or first seen first.")
    ] = Order.SIMILARITY,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Says where and when a person appeared, and sums it up."""
    mesh: Mesh = context.obj
    _check_one_query(images, poi, appearance)

    async def run() -> None:
        request = history_pb2.SearchAppearancesRequest(
            parent=mesh.parent,
            interval=interval(since, until),
            cameras=[mesh.name(names.camera, each) for each in camera or ()],
            min_similarity=min_similarity,
            order=history_pb2.AppearanceOrder.Value(f"APPEARANCE_ORDER_{order.value}"),
        )
        say_who(request, mesh, images, poi, appearance)
        async with mesh.channel("history", seconds=_IMAGE_SECONDS) as channel:
            page = await pages(history_pb2_grpc.HistoryServiceStub(channel).SearchAppearances, request, "hits", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(
            ("SIMILARITY", "CAMERA", "FIRST SEEN", "LAST SEEN", "BEST", "SIGHTINGS", "ZONES", "APPEARANCE"),
            (
                (
                    f"{hit.similarity:.2f}",
                    output.short(hit.appearance.camera),
                    output.clock(hit.appearance.start_time),
                    output.clock(hit.appearance.end_time),
                    output.clock(hit.appearance.best.detect_time),
                    hit.appearance.detection_count,
                    ", ".join(f"{output.short(v.zone)} {output.seconds(v.dwell)}" for v in hit.appearance.visits),
                    output.short(hit.appearance.name),
                )
                for hit in page.hits
            ),
            nothing="no appearance found",
        )
        if page.hits:
            _print_summary(page)
        output.print_more(page, limit)

    execute(run())


def journey(
    context: typer.Context,
    images: Photos = None,
    poi: ByPoi = "",
    appearance: ByAppearance = "",
    since: Since = None,
    until: Until = None,
    min_similarity: MinSimilarity = None,
    json: Json = False,
) -> None:
    """Says which way a person went: cameras and zones, in order."""
    mesh: Mesh = context.obj
    _check_one_query(images, poi, appearance)

    async def run() -> None:
        request = history_pb2.GetJourneyRequest(
            parent=mesh.parent, interval=interval(since, until), min_similarity=min_similarity
        )
        say_who(request.query, mesh, images, poi, appearance)
        async with mesh.channel("history", seconds=_IMAGE_SECONDS) as channel:
            way = await history_pb2_grpc.HistoryServiceStub(channel).GetJourney(request)
        if json:
            output.print_json(way)
            return
        output.print_table(
            ("FROM", "TO", "CAMERA", "ZONE", "SIMILARITY", "WHO IS IN THE ZONE"),
            (
                (
                    output.clock(step.start_time),
                    output.clock(step.end_time),
                    output.short(step.camera),
                    output.short(step.zone),
                    f"{step.similarity:.2f}",
                    ", ".join(step.object_ids),
                )
                for step in way.steps
            ),
            nothing="no appearance found",
        )
        _warn(way.visits_partial and bool(way.steps))

    execute(run())


def frames(
    context: typer.Context,
    appearance: Annotated[str, typer.Argument(metavar="APPEARANCE", help="Id or name of the appearance.")],
    json: Json = False,
) -> None:
    """Lists the evidence frames of an appearance, oldest first."""
    mesh: Mesh = context.obj

    async def run() -> None:
        name = mesh.name(names.appearance, appearance)
        async with mesh.channel("history") as channel:
            stub = history_pb2_grpc.HistoryServiceStub(channel)
            found = await stub.GetAppearance(history_pb2.GetAppearanceRequest(name=name))
        if json:
            output.print_json(history_pb2.Appearance(name=found.name, frames=found.frames))
            return
        output.print_table(
            ("CAPTURED", "CAMERA", "WHY", "BYTES", "FRAME"),
            (
                (
                    output.clock(each.capture_time),
                    output.short(each.camera),
                    history_pb2.FrameKind.Name(each.kind).removeprefix("FRAME_KIND_"),
                    each.size_bytes,
                    output.short(each.name),
                )
                for each in found.frames
            ),
            nothing="no frames",
        )

    execute(run())


def frame(
    context: typer.Context,
    frame: Annotated[str, typer.Argument(metavar="FRAME", help="Id or name of the frame.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the JPEG.")],
) -> None:
    """Saves an evidence frame as a JPEG file."""
    mesh: Mesh = context.obj

    async def run() -> None:
        name = mesh.name(names.frame, frame)
        image = b""
        async with mesh.channel("history", seconds=_IMAGE_SECONDS) as channel:
            stub = history_pb2_grpc.HistoryServiceStub(channel)
            async for part in stub.GetFrame(history_pb2.GetFrameRequest(name=name)):
                image += part.data
        out.write_bytes(image)
        output.print_line(out, f"{len(image)} bytes")

    execute(run())


def _check_one_query(images: list[Path] | None, poi: str, appearance: str) -> None:
    if sum(map(bool, (images, poi, appearance))) != 1:
        raise typer.BadParameter("give one of IMAGE..., --poi and --appearance")


def say_who(
    query: history_pb2.SearchAppearancesRequest | history_pb2.AppearanceQuery,
    mesh: Mesh,
    images: list[Path] | None,
    poi: str,
    appearance: str,
) -> None:
    """Fills in whom a query is for: photos, a person of interest, or whoever an appearance is of."""
    photos = fitted([read_image(path) for path in images or ()])
    if len(photos) == 1:
        query.image = photos[0]
    elif photos:
        query.photos.images.extend(photos)
    elif poi:
        query.poi = mesh.name(names.poi, poi)
    else:
        query.appearance = mesh.name(names.appearance, appearance)


def _print_summary(page: history_pb2.SearchAppearancesResponse) -> None:
    whole = page.summary
    output.print_line()
    output.print_line(
        f"{page.total_size} in all", f"from {output.clock(whole.start_time)}", f"to {output.clock(whole.end_time)}"
    )
    output.print_table(
        ("CAMERA", "APPEARANCES", "FIRST SEEN", "LAST SEEN"),
        (
            (
                output.short(each.camera),
                each.appearance_count,
                output.clock(each.start_time),
                output.clock(each.end_time),
            )
            for each in whole.cameras
        ),
        nothing="",
    )
    output.print_line()
    output.print_table(
        ("ZONE", "VISITS", "DWELL", "FROM", "TO", "WHO IS IN THE ZONE"),
        (
            (
                output.short(each.zone),
                each.visit_count,
                output.seconds(each.dwell),
                output.clock(each.start_time),
                output.clock(each.end_time),
                ", ".join(each.object_ids),
            )
            for each in whole.zones
        ),
        nothing="no zone was entered meanwhile",
    )
    _warn(whole.visits_partial)


def _warn(visits_partial: bool) -> None:
    if visits_partial:
        output.complain("visits to zones are missing: there are too many, or the region server did not answer")
