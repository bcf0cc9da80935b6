"""Persons of interest: enrol, list, update, delete."""

from __future__ import annotations

import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from poi.v1 import common_pb2, poi_pb2, poi_pb2_grpc

from clients.cli import findings, output, photos
from clients.cli.options import (
    AllowDisagreement,
    AllowDuplicate,
    Basis,
    EnrolledBy,
    Etag,
    Expire,
    Json,
    LegalReference,
    Limit,
    OnLists,
    Purpose,
    Severity,
    changes,
    timestamp,
)
from clients.cli.session import Mesh, execute, pages, read_image
from mesh import names

Who = Annotated[str, typer.Argument(metavar="POI", help="Id or name of the person.")]
_ENROL_SECONDS: Final = 30.0
_COLUMNS: Final = ("POI", "NAME", "SEVERITY", "THRESHOLD", "FACES", "ENROLLED", "EXPIRES")


class Field(StrEnum):
    """What can be taken back of a person, for people to type."""

    NOTES = "notes"
    THRESHOLD = "threshold"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(enrol)
    app.command("list")(list_pois)
    app.command()(update)
    app.command()(delete)


def enrol(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What operators call the person.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos, one face on each, 10 at most.")],
    severity: Annotated[Severity, typer.Option(case_sensitive=False, help="How much it matters.")] = Severity.MEDIUM,
    poi_id: Annotated[str, typer.Option("--id", help="Id to take; one is made otherwise.")] = "",
    notes: Annotated[str, typer.Option(help="Free text.")] = "",
    threshold: Annotated[float | None, typer.Option(help="Least similarity; the store's otherwise.")] = None,
    purpose: Purpose = "",
    legal_basis: Basis = None,
    legal_reference: LegalReference = "",
    enrolled_by: EnrolledBy = "",
    expire: Expire = None,
    watchlist: OnLists = None,
    allow_duplicate: AllowDuplicate = False,
    allow_disagreement: AllowDisagreement = False,
    check: Annotated[bool, typer.Option("--check", help="Enrol nobody: say what is found on the photos.")] = False,
    json: Json = False,
) -> None:
    """Enrols a person from photos. Purpose, legal basis and an end (or a watchlist that has one) are required."""
    mesh: Mesh = context.obj

    async def run() -> bool:
        person = poi_pb2.Poi(
            display_name=name,
            severity=severity.number,
            notes=notes,
            threshold=threshold,
            purpose=purpose,
            legal_basis=legal_basis.number if legal_basis else poi_pb2.LEGAL_BASIS_UNSPECIFIED,
            legal_reference=legal_reference,
            enrolled_by=mesh.actor(enrolled_by),
            watchlists=[mesh.name(names.watchlist, each) for each in watchlist or ()],
        )
        if expire:
            person.expire_time.CopyFrom(timestamp(expire))
        request = poi_pb2.CreatePoiRequest(
            parent=mesh.parent,
            poi=person,
            poi_id=poi_id,
            images=photos.fitted([read_image(path) for path in images]),
            request_id=str(uuid.uuid4()),
            validate_only=check,
            allow_duplicate=allow_duplicate,
            allow_disagreement=allow_disagreement,
        )
        async with mesh.channel("match", seconds=_ENROL_SECONDS) as channel:
            made = await poi_pb2_grpc.PoiServiceStub(channel).CreatePoi(request)
        if json:
            output.print_json(made)
        elif check:
            findings.show(made.enrolment_report, [str(path) for path in images])
        else:
            output.print_table(_COLUMNS, [_row(made)], nothing="")
        return not check or made.enrolment_report.accepted

    if not execute(run()):
        raise typer.Exit(1)


def list_pois(context: typer.Context, limit: Limit = 100, json: Json = False) -> None:
    """Lists the persons of interest, newest first."""
    mesh: Mesh = context.obj

    async def run() -> None:
        async with mesh.channel("match") as channel:
            call = poi_pb2_grpc.PoiServiceStub(channel).ListPois
            page = await pages(call, poi_pb2.ListPoisRequest(parent=mesh.parent), "pois", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(_COLUMNS, map(_row, page.pois), nothing="nobody is enrolled")
        output.print_more(page, limit)

    execute(run())


def update(
    context: typer.Context,
    poi: Who,
    name: Annotated[str, typer.Option("--name", help="What operators call the person.")] = "",
    severity: Annotated[Severity | None, typer.Option(case_sensitive=False, help="How much it matters.")] = None,
    notes: Annotated[str, typer.Option(help="Free text.")] = "",
    threshold: Annotated[float | None, typer.Option(help="Least similarity.")] = None,
    purpose: Purpose = "",
    legal_basis: Basis = None,
    legal_reference: LegalReference = "",
    expire: Expire = None,
    clear: Annotated[
        list[Field] | None, typer.Option(case_sensitive=False, help="Say nothing of this any more (repeat).")
    ] = None,
    etag: Etag = "",
    json: Json = False,
) -> None:
    """Changes what is said of a person; the rest stays. A later end brings back who has expired."""
    mesh: Mesh = context.obj
    wanted = poi_pb2.Poi(
        display_name=name,
        severity=severity.number if severity else common_pb2.SEVERITY_UNSPECIFIED,
        notes=notes,
        threshold=threshold,
        purpose=purpose,
        legal_basis=legal_basis.number if legal_basis else poi_pb2.LEGAL_BASIS_UNSPECIFIED,
        legal_reference=legal_reference,
    )
    if expire:
        wanted.expire_time.CopyFrom(timestamp(expire))
    mask = changes(wanted, clear or ())

    async def run() -> None:
        wanted.name, wanted.etag = mesh.name(names.poi, poi), etag
        async with mesh.channel("match") as channel:
            stub = poi_pb2_grpc.PoiServiceStub(channel)
            changed = await stub.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=mask))
        if json:
            output.print_json(changed)
        else:
            output.print_table(_COLUMNS, [_row(changed)], nothing="")

    execute(run())


def delete(
    context: typer.Context,
    poi: Who,
    etag: Etag = "",
    json: Json = False,
) -> None:
    """Removes a person and all their references."""
    mesh: Mesh = context.obj

    async def run() -> None:
        name = mesh.name(names.poi, poi)
        async with mesh.channel("match") as channel:
            stub = poi_pb2_grpc.PoiServiceStub(channel)
            done = await stub.DeletePoi(poi_pb2.DeletePoiRequest(name=name, etag=etag))
        if json:
            output.print_json(done)
        else:
            output.print_line(output.short(name), "deleted")

    execute(run())


def _row(person: poi_pb2.Poi) -> tuple[object, ...]:
    return (
        output.short(person.name),
        person.display_name,
        output.severity(person.severity),
        f"{person.threshold:.2f}" if person.HasField("threshold") else "",
        len(person.references),
        output.clock(person.create_time),
        output.clock(person.expire_time),
    )
