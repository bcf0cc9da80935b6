"""The audit log: who read or changed what is kept of people, and whether anybody has touched those records."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToJson
from poi.v1 import audit_pb2, audit_pb2_grpc

from clients.cli import output
from clients.cli.options import Json, Limit, Since, Until, interval
from clients.cli.session import Mesh, Refused, execute, pages

_SECONDS: Final = 300.0
_KNOWN: Final = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")

By = Annotated[str, typer.Option("--by", metavar="ACTOR", help="Only by this caller.")]
Action = Annotated[str, typer.Option(metavar="TEXT", help="Only actions that contain this: EraseAppearances.")]
About = Annotated[str, typer.Option("--about", metavar="NAME", help="Only about this resource, and what is below it.")]
Code = Annotated[list[str] | None, typer.Option(metavar="CODE", help="Only with this result: NOT_FOUND (repeat).")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    audit = typer.Typer(help="Who read or changed what is kept of people.", no_args_is_help=True)
    audit.command("list")(list_records)
    audit.command()(export)
    audit.command()(verify)
    app.add_typer(audit, name="audit")


def list_records(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    by: By = "",
    action: Action = "",
    about: About = "",
    code: Code = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Lists audit records, newest first."""
    mesh: Mesh = context.obj
    wanted = _filter(since, until, by, action, about, code)

    async def run() -> Any:
        async with mesh.channel("audit") as channel:
            call = audit_pb2_grpc.AuditServiceStub(channel).ListAuditRecords
            request = audit_pb2.ListAuditRecordsRequest(parent=mesh.parent, filter=wanted)
            return await pages(call, request, "audit_records", limit)

    page = execute(run())
    if json:
        output.print_json(page)
        return
    output.print_table(
        ("NUMBER", "WHEN", "WHO", "WHAT", "MOMENT", "ABOUT", "RESULT", "WHY"),
        (
            (
                each.sequence,
                output.clock(each.record_time),
                each.actor.name,
                each.action.removeprefix("poi.v1."),
                audit_pb2.AuditPhase.Name(each.phase).removeprefix("AUDIT_PHASE_").lower(),
                output.short(each.resource),
                each.code,
                each.purpose,
            )
            for each in page.audit_records
        ),
        nothing="nothing was recorded",
    )
    output.print_more(page, limit)


def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write them, one JSON a line.")],
    since: Since = None,
    until: Until = None,
    by: By = "",
    action: Action = "",
    about: About = "",
    code: Code = None,
) -> None:
    """Writes audit records to a file, oldest first, each with the bytes (base64) that its hash is of."""
    mesh: Mesh = context.obj
    wanted = _filter(since, until, by, action, about, code)

    async def run() -> int:
        count = 0
        draft = out.with_name(f"{out.name}.part")
        try:
            async with mesh.channel("audit") as channel:
                request = audit_pb2.ExportAuditRequest(parent=mesh.parent, filter=wanted)
                with draft.open("w", encoding="utf-8") as file:
                    async for response in audit_pb2_grpc.AuditServiceStub(channel).ExportAudit(request):
                        for record in response.records:
                            file.write(MessageToJson(record, indent=None) + "\n")
                            count += 1
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
        return count

    output.print_line(f"{out}: {execute(run())} records")


def verify(
    context: typer.Context,
    known: Annotated[
        str, typer.Option(metavar="NUMBER:HASH", help="What an earlier check said, kept elsewhere: must still hold.")
    ] = "",
    json: Json = False,
) -> None:
    """Checks that no audit record was changed, removed or put in between; status 1 when one was."""
    mesh: Mesh = context.obj

    async def run() -> audit_pb2.VerifyChainResponse:
        request = audit_pb2.VerifyChainRequest(parent=mesh.parent)
        if known:
            found = _KNOWN.fullmatch(known)
            if found is None:
                raise Refused(f"--known {known}: is not NUMBER:HASH, as this command says")
            request.known_sequence, request.known_hash = int(found[1]), found[2]
        async with mesh.channel("audit", seconds=_SECONDS) as channel:
            answer: audit_pb2.VerifyChainResponse = await audit_pb2_grpc.AuditServiceStub(channel).VerifyChain(request)
            return answer

    found = execute(run())
    if json:
        output.print_json(found)
    else:
        for fault in found.faults:
            kind = audit_pb2.ChainFaultKind.Name(fault.kind).removeprefix("CHAIN_FAULT_KIND_")
            where = f"{fault.first_sequence}-{fault.last_sequence}"
            place = where if fault.first_sequence != fault.last_sequence else f"{fault.first_sequence}"
            output.print_line(f"{kind} {place}: {fault.description}")
        verdict = "sound" if found.sound else f"{found.fault_count} fault(s)"
        span = f"{found.first_sequence} to {found.last_sequence}"
        output.print_line(f"{verdict}: {found.record_count} records, {span}")
        if found.last_hash:
            output.print_line(f"keep for the next check: --known {found.last_sequence}:{found.last_hash}")
    if not found.sound:
        raise typer.Exit(1)


def _filter(
    since: datetime | None, until: datetime | None, by: str, action: str, about: str, code: list[str] | None
) -> audit_pb2.AuditFilter:
    return audit_pb2.AuditFilter(
        interval=interval(since, until), actor=by, action=action, resource=about, codes=code or []
    )
