"""Places: visits to zones, and who is there now."""

from __future__ import annotations

from typing import Annotated

import typer
from poi.v1 import region_pb2, region_pb2_grpc

from clients.cli import output
from clients.cli.options import Cameras, Json, Limit, Since, Until, interval
from clients.cli.session import Mesh, Refused, execute, pages
from mesh import names


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(visits)
    app.command()(occupancy)


def visits(
    context: typer.Context,
    zone: Annotated[list[str] | None, typer.Option(metavar="SCENE/ZONE", help="Only in this zone (repeat).")] = None,
    person: Annotated[list[str] | None, typer.Option("--object", help="Only of this person's track (repeat).")] = None,
    camera: Cameras = None,
    since: Since = None,
    until: Until = None,
    going_on: Annotated[bool, typer.Option("--open", help="Only those that go on.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Lists visits to zones with entry, exit and dwell, newest entry first."""
    mesh: Mesh = context.obj

    def zone_name(given: str) -> str:
        scene_id, slash, zone_id = given.partition("/")
        if not slash:
            raise Refused(f"{given}: a zone is given as SCENE/ZONE")
        return given if scene_id == "stores" else mesh.name(names.zone, scene_id, zone_id)

    async def run() -> None:
        request = region_pb2.ListVisitsRequest(
            parent=mesh.parent,
            interval=interval(since, until),
            zones=[zone_name(each) for each in zone or ()],
            object_ids=person or (),
            cameras=[mesh.name(names.camera, each) for each in camera or ()],
            state=region_pb2.VISIT_STATE_OPEN if going_on else region_pb2.VISIT_STATE_UNSPECIFIED,
        )
        async with mesh.channel("region") as channel:
            page = await pages(region_pb2_grpc.RegionServiceStub(channel).ListVisits, request, "visits", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(
            ("ENTERED", "LEFT", "DWELL", "SCENE", "ZONE", "OBJECT", "CAMERAS"),
            (
                (
                    output.clock(visit.enter_time),
                    output.clock(visit.exit_time) or "(still there)",
                    output.seconds(visit.dwell),
                    visit.zone.split("/")[3],
                    output.short(visit.zone),
                    visit.object_id,
                    ", ".join(map(output.short, visit.cameras)),
                )
                for visit in page.visits
            ),
            nothing="no visits",
        )
        output.print_more(page, limit)

    execute(run())


def occupancy(
    context: typer.Context,
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="Id or name of the scene.")],
    json: Json = False,
) -> None:
    """Says how many people are in each zone of a scene."""
    mesh: Mesh = context.obj

    async def run() -> None:
        name = f"{mesh.name(names.scene, scene)}/occupancy"
        async with mesh.channel("region") as channel:
            stub = region_pb2_grpc.RegionServiceStub(channel)
            now = await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=name))
        if json:
            output.print_json(now)
            return
        output.print_table(
            ("ZONE", "PEOPLE", "WHO"),
            ((output.short(each.zone), each.count, ", ".join(each.object_ids)) for each in now.zones),
            nothing="no zones were entered yet",
        )
        output.print_line("as of", output.clock(now.update_time) or "never")

    execute(run())
