"""Faces: who is on a photo, and where a person was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from poi.v1 import embedding_pb2, embedding_pb2_grpc, history_pb2, history_pb2_grpc, match_pb2, match_pb2_grpc

from clients.cli import output
from clients.cli.options import Cameras, Json, Limit, Since, Until, interval
from clients.cli.session import Mesh, Refused, execute, pages, read_image
from mesh import names

_IMAGE_SECONDS: Final = 30.0
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(match)
    app.command()(search)


def match(context: typer.Context, image: Image, json: Json = False) -> None:
    """Says which persons of interest are on a photo."""
    mesh: Mesh = context.obj

    async def run() -> None:
        detect = embedding_pb2.DetectFacesRequest(parent=mesh.parent, image=read_image(image))
        async with mesh.channel("embed", seconds=_IMAGE_SECONDS) as channel:
            found = await embedding_pb2_grpc.EmbeddingServiceStub(channel).DetectFaces(detect)
        if not found.faces:
            raise Refused(f"{image}: no face found")
        request = match_pb2.MatchFacesRequest(
            parent=mesh.parent, embeddings=[embedding for face in found.faces for embedding in face.embeddings]
        )
        async with mesh.channel("match") as channel:
            matched = await match_pb2_grpc.MatchServiceStub(channel).MatchFaces(request)
        if json:
            output.print_json(matched)
            return
        rows: list[tuple[object, ...]] = []
        for face, answer in zip(found.faces, matched.faces, strict=True):
            box = f"{face.box.width:.0f}x{face.box.height:.0f} at {face.box.x:.0f},{face.box.y:.0f}"
            for hit in answer.matches:
                rows.append(
                    (
                        box,
                        hit.display_name,
                        output.severity(hit.severity),
                        output.closeness(hit),
                        output.short(hit.poi),
                    )
                )
            if not answer.matches:
                rows.append((box, answer.error.message or "nobody enrolled", "", "", ""))
        output.print_table(("FACE", "NAME", "SEVERITY", "SIMILARITY", "POI"), rows, nothing="")

    execute(run())


def search(
    context: typer.Context,
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="A photo with one face.")] = None,
    poi: Annotated[str, typer.Option(metavar="POI", help="Instead of a photo: a person of interest.")] = "",
    appearance: Annotated[str, typer.Option(metavar="A", help="Instead of a photo: who appeared there.")] = "",
    since: Since = None,
    until: Until = None,
    camera: Cameras = None,
    min_similarity: Annotated[float | None, typer.Option(min=0, max=1, help="Least cosine similarity.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Says where and when a person appeared, most similar first."""
    mesh: Mesh = context.obj
    if sum(map(bool, (image, poi, appearance))) != 1:
        raise typer.BadParameter("give one of IMAGE, --poi and --appearance")

    async def run() -> None:
        request = history_pb2.SearchAppearancesRequest(
            parent=mesh.parent,
            interval=interval(since, until),
            cameras=[mesh.name(names.camera, each) for each in camera or ()],
            min_similarity=min_similarity,
        )
        if image:
            request.image = read_image(image)
        elif poi:
            request.poi = mesh.name(names.poi, poi)
        else:
            request.appearance = mesh.name(names.appearance, appearance)
        async with mesh.channel("history", seconds=_IMAGE_SECONDS) as channel:
            call = history_pb2_grpc.HistoryServiceStub(channel).SearchAppearances
            page = await pages(call, request, "hits", limit)
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
        output.print_more(page, limit)

    execute(run())
