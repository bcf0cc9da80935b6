"""How similar a face must be: the store's threshold."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import match_pb2, match_pb2_grpc

from clients.cli import output
from clients.cli.options import Json
from clients.cli.session import Mesh, execute


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(threshold)


def threshold(
    context: typer.Context,
    cosine: Annotated[float | None, typer.Option(min=0.2, max=0.99, help="Least similarity that is a match.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, max=0.1, help="Instead: how often a stranger may match anybody.")
    ] = None,
    json: Json = False,
) -> None:
    """Shows, or sets, how similar a face must be to persons who are on no watchlist."""
    mesh: Mesh = context.obj
    if cosine is not None and rate is not None:
        raise typer.BadParameter("--cosine and --rate exclude each other")

    async def run() -> None:
        name = f"{mesh.parent}/matchSettings"
        async with mesh.channel("match") as channel:
            stub = match_pb2_grpc.MatchServiceStub(channel)
            if cosine is None and rate is None:
                settings = await stub.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=name))
            else:
                wanted = match_pb2.MatchSettings(name=name, threshold=cosine, target_false_match_rate=rate)
                # A rate leaves the cosine as it is, for the day when the rate is taken back.
                paths = ["target_false_match_rate"] + ["threshold"] * (cosine is not None)
                settings = await stub.UpdateMatchSettings(
                    match_pb2.UpdateMatchSettingsRequest(match_settings=wanted, update_mask=FieldMask(paths=paths))
                )
        if json:
            output.print_json(settings)
        else:
            _show(settings)

    execute(run())


def _show(settings: match_pb2.MatchSettings) -> None:
    now = settings.effective
    if settings.HasField("target_false_match_rate"):
        beyond = " (extrapolated)" if now.extrapolated else ""
        wanted = (
            f"one stranger in {1 / settings.target_false_match_rate:,.0f} may match anybody of {now.persons}{beyond}"
        )
    else:
        wanted = "a cosine"
    output.print_line(f"aligned {now.aligned:.3f}", f"others {now.unaligned:.3f}", wanted)
