"""Erasing a person everywhere: what there is of them, the erasure, and its receipt."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Final

import typer
from poi.v1 import erasure_pb2, erasure_pb2_grpc

from clients.cli import output
from clients.cli.investigate import MinSimilarity
from clients.cli.options import Json, Limit
from clients.cli.photos import fitted
from clients.cli.session import Mesh, Refused, execute, pages, read_image
from mesh import names

_PLAN_SECONDS: Final = 120.0
_ERASE_SECONDS: Final = 1800.0
"""Every file that holds any of it is written anew."""

ByPoi = Annotated[str, typer.Option("--poi", metavar="POI", help="The person of interest, enrolled or once enrolled.")]
ByAppearance = Annotated[
    list[str] | None, typer.Option("--appearance", metavar="A", help="They appeared there (repeat).")
]
ByPhoto = Annotated[
    list[Path] | None, typer.Option("--photo", metavar="IMAGE", help="They look like this (repeat, 10 at most).")
]
Out = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the receipt.")]
Name = Annotated[str, typer.Argument(metavar="ERASURE", help="Id or name of the erasure.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    person = typer.Typer(help="Erase a person everywhere, with a receipt.", no_args_is_help=True)
    person.command()(plan)
    person.command()(erase)
    person.command("list")(list_erasures)
    person.command()(receipt)
    person.command()(key)
    person.command()(verify)
    app.add_typer(person, name="person")


def plan(
    context: typer.Context,
    poi: ByPoi = "",
    appearance: ByAppearance = None,
    photo: ByPhoto = None,
    min_similarity: MinSimilarity = None,
    json: Json = False,
) -> None:
    """Shows all that there is of a person, and what would stay."""
    mesh: Mesh = context.obj
    found = execute(_plan(mesh, _whom(mesh, poi, appearance, photo, min_similarity)))
    if json:
        output.print_json(found)
        return
    _show(found)
    output.print_line("plan", found.plan)


def erase(
    context: typer.Context,
    poi: ByPoi = "",
    appearance: ByAppearance = None,
    photo: ByPhoto = None,
    min_similarity: MinSimilarity = None,
    plan: Annotated[str, typer.Option(metavar="PLAN", help="The plan that was looked at; without, it is shown.")] = "",
    request_id: Annotated[str, typer.Option(help="Of an erasure that was begun, to go on with it.")] = "",
    allow_newer: Annotated[bool, typer.Option("--allow-newer", help="Erase what came since as well.")] = False,
    out: Out = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erases a person everywhere: shows what there is, asks, and keeps the receipt."""
    mesh: Mesh = context.obj

    async def run() -> None:
        person = _whom(mesh, poi, appearance, photo, min_similarity)
        token = plan
        if not token:
            found = await _plan(mesh, person)
            _show(found)
            if not found.traces:
                return
            token = found.plan
        if not yes:
            typer.confirm("Erase all of it for good?", abort=True, err=True)
        request = erasure_pb2.ErasePersonRequest(
            parent=mesh.parent,
            person=person,
            plan=token,
            allow_newer=allow_newer,
            request_id=request_id or str(uuid.uuid4()),
        )
        async with mesh.channel("audit", seconds=_ERASE_SECONDS) as channel:
            done = await erasure_pb2_grpc.ErasureServiceStub(channel).ErasePerson(request)
        _report(done, out)

    execute(run())


def list_erasures(context: typer.Context, limit: Limit = 50, json: Json = False) -> None:
    """Lists erasures of persons, newest first."""
    mesh: Mesh = context.obj

    async def run() -> erasure_pb2.ListPersonErasuresResponse:
        async with mesh.channel("audit") as channel:
            call = erasure_pb2_grpc.ErasureServiceStub(channel).ListPersonErasures
            request = erasure_pb2.ListPersonErasuresRequest(parent=mesh.parent)
            page: erasure_pb2.ListPersonErasuresResponse = await pages(call, request, "person_erasures", limit)
            return page

    page = execute(run())
    if json:
        output.print_json(page)
        return
    output.print_table(
        ("ERASURE", "STATE", "PERSON", "WHO ASKED", "WHY", "BEGUN", "DONE", "WAITS FOR"),
        (
            (
                output.short(each.name),
                _state(each),
                output.short(each.poi),
                each.requester.name,
                each.purpose,
                output.clock(each.create_time),
                output.clock(each.complete_time),
                ", ".join(sorted({one.keeper for one in each.obstacles})),
            )
            for each in page.person_erasures
        ),
        nothing="nobody was erased",
    )
    output.print_more(page, limit)


def receipt(context: typer.Context, erasure: Name, out: Out = None, json: Json = False) -> None:
    """Says how far an erasure is, and writes its receipt."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = erasure_pb2.GetPersonErasureRequest(name=mesh.name(names.person_erasure, erasure))
        async with mesh.channel("audit") as channel:
            found = await erasure_pb2_grpc.ErasureServiceStub(channel).GetPersonErasure(request)
        _report(found, out, json=json)

    execute(run())


def key(context: typer.Context) -> None:
    """Prints the public key that receipts are verified with: keep it elsewhere."""
    mesh: Mesh = context.obj

    async def run() -> str:
        request = erasure_pb2.GetReceiptKeyRequest(name=f"{mesh.parent}/receiptKey")
        async with mesh.channel("audit") as channel:
            found: erasure_pb2.ReceiptKey = await erasure_pb2_grpc.ErasureServiceStub(channel).GetReceiptKey(request)
            return found.pem

    print(execute(run()), end="")


def verify(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="The file that `poi person erase -o` wrote.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The public key: `poi person key`.")],
) -> None:
    """Says whether a receipt is what was signed, without any server; status 1 where it is not."""
    from mesh.erasure import receipts  # with a library that takes its time to import

    async def run() -> None:
        try:
            content = receipts.verify(receipt.read_bytes(), key.read_bytes())
        except (receipts.NotGenuine, ValueError) as error:
            raise Refused(f"{receipt}: {error}") from None
        count = sum(one["count"] for one in content["removed"])
        output.print_line("genuine", content["name"], f"completed {content['completed']}", f"{count} traces removed")

    execute(run())


def _whom(
    mesh: Mesh, poi: str, appearances: list[str] | None, photos: list[Path] | None, min_similarity: float | None
) -> erasure_pb2.ErasedPerson:
    if not (poi or appearances or photos):
        raise typer.BadParameter("give --poi, --appearance or --photo")
    try:
        return erasure_pb2.ErasedPerson(
            poi=mesh.name(names.poi, poi) if poi else "",
            appearances=[mesh.name(names.appearance, each) for each in appearances or ()],
            photos=fitted([read_image(each) for each in photos or ()]),
            min_similarity=min_similarity,
        )
    except Refused as error:
        raise typer.BadParameter(str(error)) from None


async def _plan(mesh: Mesh, person: erasure_pb2.ErasedPerson) -> erasure_pb2.PersonErasure:
    request = erasure_pb2.ErasePersonRequest(parent=mesh.parent, person=person, validate_only=True)
    async with mesh.channel("audit", seconds=_PLAN_SECONDS) as channel:
        found: erasure_pb2.PersonErasure = await erasure_pb2_grpc.ErasureServiceStub(channel).ErasePerson(request)
        return found


def _show(found: erasure_pb2.PersonErasure) -> None:
    output.print_table(
        ("KEPT BY", "WHAT", "COUNT"),
        ((each.keeper, each.kind, each.count) for each in found.traces),
        nothing="there is nothing of them",
    )
    if not found.traces:
        return
    output.print_line()
    output.print_table(
        ("STAYS WITH", "WHAT", "COUNT", "WHY", "MORE"),
        ((each.keeper, each.kind, each.count or "", each.reason, each.detail) for each in found.remainders),
        nothing="nothing stays",
    )


def _report(done: erasure_pb2.PersonErasure, out: Path | None, *, json: bool = False) -> None:
    """Says how it went, and writes the receipt; without JSON, status 1 where there is none yet."""
    is_done = done.state == erasure_pb2.ERASURE_STATE_DONE
    if json:
        output.print_json(done)
    else:
        output.print_line(output.short(done.name), _state(done))
        for each in done.obstacles if not is_done else ():
            output.print_line(f"{each.keeper}: {each.reason}")
    if not is_done and not json:
        raise Refused(f"it goes on by itself: `poi person receipt {output.short(done.name)}`")
    if not json:
        removed = sum(each.count for each in done.traces)
        output.print_line(f"{removed} traces removed, {len(done.remainders)} kinds stay")
    if out is not None and is_done:
        from mesh.erasure import receipts  # with a library that takes its time to import

        out.write_bytes(receipts.as_file(done.receipt))
        if not json:
            output.print_line(f"receipt: {out}")


def _state(erasure: erasure_pb2.PersonErasure) -> str:
    return erasure_pb2.ErasureState.Name(erasure.state).removeprefix("ERASURE_STATE_")
