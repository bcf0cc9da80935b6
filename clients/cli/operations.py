"""Operations: cameras, refused messages, and the health of the servers."""

from __future__ import annotations

import asyncio
import json as plain_json
from typing import Final

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from poi.v1 import ingest_pb2, ingest_pb2_grpc

from clients.cli import output
from clients.cli.options import SERVICES, Json, Limit
from clients.cli.session import Mesh, execute, pages
from mesh.calling import SERVICE_HEADER

_HEALTH_SECONDS: Final = 2.0


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(cameras)
    app.command()(rejections)
    app.command()(status)


def cameras(context: typer.Context, limit: Limit = 100, json: Json = False) -> None:
    """Lists the cameras that sent messages, with their rates."""
    mesh: Mesh = context.obj

    async def run() -> None:
        async with mesh.channel("ingest") as channel:
            call = ingest_pb2_grpc.IngestServiceStub(channel).ListCameras
            page = await pages(call, ingest_pb2.ListCamerasRequest(parent=mesh.parent), "cameras", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(
            ("CAMERA", "LAST SEEN", "MESSAGES/S", "DETECTIONS/S", "MESSAGES", "DETECTIONS"),
            (
                (
                    output.short(camera.name),
                    output.clock(camera.last_seen_time),
                    f"{camera.message_rate:.1f}",
                    f"{camera.detection_rate:.1f}",
                    camera.message_count,
                    camera.detection_count,
                )
                for camera in page.cameras
            ),
            nothing="no camera has sent anything yet",
        )
        output.print_more(page, limit)

    execute(run())


def rejections(context: typer.Context, limit: Limit = 50, json: Json = False) -> None:
    """Lists the messages that were refused and why, newest first."""
    mesh: Mesh = context.obj

    async def run() -> None:
        async with mesh.channel("ingest") as channel:
            call = ingest_pb2_grpc.IngestServiceStub(channel).ListRejections
            page = await pages(call, ingest_pb2.ListRejectionsRequest(parent=mesh.parent), "rejections", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(
            ("WHEN", "REASON", "TOPIC", "FIELD", "BYTES", "WHY"),
            (
                (
                    output.clock(each.reject_time),
                    each.reason,
                    each.topic,
                    each.field,
                    each.size_bytes,
                    each.message,
                )
                for each in page.rejections
            ),
            nothing="nothing was refused",
        )
        output.print_more(page, limit)

    execute(run())


def status(context: typer.Context, json: Json = False) -> None:
    """Says whether each server is up and serving; status 1 when one is not."""
    mesh: Mesh = context.obj

    async def run() -> dict[str, str]:
        states = await asyncio.gather(*(_health(mesh, name) for name in SERVICES))
        return dict(zip(SERVICES, states, strict=True))

    states = execute(run())
    if json:
        print(plain_json.dumps({name: {"target": mesh.where(name), "status": states[name]} for name in states}))
    else:
        rows = [(name, mesh.where(name), state) for name, state in states.items()]
        output.print_table(("SERVER", "TARGET", "STATUS"), rows, nothing="")
    if set(states.values()) != {"SERVING"}:
        raise typer.Exit(1)


async def _health(mesh: Mesh, name: str) -> str:
    channel = mesh.connect(name, _HEALTH_SECONDS)
    try:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        asked = ((SERVICE_HEADER, name),)  # for the gateway; a server answers for itself
        answer = await stub.Check(health_pb2.HealthCheckRequest(), metadata=asked)
        state: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return state
    except grpc.aio.AioRpcError as error:
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return "NO_ANSWER" if late else error.code().name
    finally:
        await channel.close()
