"""Erasing what history has of a person."""

from __future__ import annotations

import uuid
from typing import Annotated, Final

import typer
from poi.v1 import history_pb2, history_pb2_grpc

from clients.cli import output
from clients.cli.investigate import ByPoi, MinSimilarity, Photos, say_who
from clients.cli.options import Cameras, Json, Since, Until, interval
from clients.cli.session import Mesh, Refused, execute
from mesh import names

_PLAN_SECONDS: Final = 60.0
_ERASE_SECONDS: Final = 1800.0
"""Every file that holds any of it is written anew."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(erase)
    app.command()(erasure)


def erase(
    context: typer.Context,
    images: Photos = None,
    poi: ByPoi = "",
    like: Annotated[str, typer.Option("--like", metavar="A", help="Instead of photos: who appeared there.")] = "",
    appearance: Annotated[
        list[str] | None, typer.Option("--appearance", metavar="A", help="Instead: only this appearance (repeat).")
    ] = None,
    since: Since = None,
    until: Until = None,
    camera: Cameras = None,
    min_similarity: MinSimilarity = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Removes appearances for good: shows which, asks, and prints a receipt."""
    mesh: Mesh = context.obj
    if sum(map(bool, (images, poi, like, appearance))) != 1:
        raise typer.BadParameter("give one of IMAGE..., --poi, --like and --appearance")

    async def run() -> None:
        request = history_pb2.EraseAppearancesRequest(parent=mesh.parent, validate_only=True)
        if appearance:
            request.appearances.names.extend(mesh.name(names.appearance, one) for one in appearance)
        else:
            selection = request.selection
            selection.interval.CopyFrom(interval(since, until))
            selection.cameras.extend(mesh.name(names.camera, one) for one in camera or ())
            if min_similarity is not None:
                selection.min_similarity = min_similarity
            say_who(selection.query, mesh, images, poi, like)
        async with mesh.channel("history", seconds=_PLAN_SECONDS) as channel:
            plan = await history_pb2_grpc.HistoryServiceStub(channel).EraseAppearances(request)
        _show(plan, quiet=json)
        if not plan.erasure.appearance_count:
            return
        if plan.hits:
            if len(plan.hits) < plan.erasure.appearance_count:
                raise Refused("these are too many to be seen at once: narrow --since, --until or --camera")
            # What was shown, and nothing that came meanwhile.
            request.appearances.names.extend(hit.appearance.name for hit in plan.hits)
        if not yes:
            typer.confirm("Erase them for good?", abort=True, err=True)
        request.validate_only, request.request_id = False, str(uuid.uuid4())
        async with mesh.channel("history", seconds=_ERASE_SECONDS) as channel:
            done = await history_pb2_grpc.HistoryServiceStub(channel).EraseAppearances(request)
        _print(done.erasure, json=json)

    execute(run())


def erasure(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ERASURE", help="Id or name of the erasure.")],
    json: Json = False,
) -> None:
    """Prints the receipt of an erasure."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = history_pb2.GetErasureRequest(name=mesh.name(names.erasure, name))
        async with mesh.channel("history") as channel:
            _print(await history_pb2_grpc.HistoryServiceStub(channel).GetErasure(request), json=json)

    execute(run())


def _show(plan: history_pb2.EraseAppearancesResponse, *, quiet: bool) -> None:
    if quiet:
        return
    output.print_table(
        ("SIMILARITY", "CAMERA", "FIRST SEEN", "LAST SEEN", "SIGHTINGS", "FRAMES", "APPEARANCE"),
        (
            (
                f"{hit.similarity:.2f}",
                output.short(hit.appearance.camera),
                output.clock(hit.appearance.start_time),
                output.clock(hit.appearance.end_time),
                hit.appearance.detection_count,
                len(hit.appearance.frames),
                output.short(hit.appearance.name),
            )
            for hit in plan.hits
        ),
        nothing="" if plan.erasure.appearance_count else "no appearance found",
    )
    if plan.erasure.appearance_count:
        output.print_line(_counts(plan.erasure))


def _print(erasure: history_pb2.Erasure, *, json: bool) -> None:
    if json:
        output.print_json(erasure)
        return
    finished = erasure.HasField("complete_time")
    output.print_line(
        f"erased {output.short(erasure.name)}",
        _counts(erasure),
        f"in {erasure.file_count} files, done {output.clock(erasure.complete_time)}" if finished else "goes on",
    )


def _counts(erasure: history_pb2.Erasure) -> str:
    return (
        f"{erasure.appearance_count} appearances, {erasure.detection_count} detections "
        f"({erasure.face_count} with a face), {erasure.frame_count} frames"
    )
