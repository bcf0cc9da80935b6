"""Faces: who is on a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from poi.v1 import embedding_pb2, embedding_pb2_grpc, match_pb2, match_pb2_grpc

from clients.cli import output
from clients.cli.options import Json
from clients.cli.photos import fitted
from clients.cli.session import Mesh, Refused, execute, read_image

_IMAGE_SECONDS: Final = 30.0
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(match)


def match(context: typer.Context, image: Image, json: Json = False) -> None:
    """Says which persons of interest are on a photo."""
    mesh: Mesh = context.obj

    async def run() -> None:
        (photo,) = fitted([read_image(image)])
        detect = embedding_pb2.DetectFacesRequest(parent=mesh.parent, image=photo)
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
