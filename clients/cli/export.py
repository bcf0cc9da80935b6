"""Case files: the zip of an alert, checked by its manifest before it gets its name."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from poi.v1 import alert_pb2, alert_pb2_grpc
from pydantic import BaseModel, ValidationError

from clients.cli import output
from clients.cli.alerts import Actor, Alert
from clients.cli.session import Mesh, Refused, execute
from mesh import names

_SECONDS: Final = 120.0
_MANIFEST: Final = "manifest.json"


class _File(BaseModel):
    name: str
    size: int
    sha256: str


class _Missing(BaseModel):
    name: str
    reason: str
    detail: str


class Manifest(BaseModel):
    """What a case file says of itself, as far as it is checked and shown."""

    alert: str
    export: str
    files: list[_File]
    missing: list[_Missing]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(export)


def export(
    context: typer.Context,
    alert: Alert,
    actor: Actor,
    purpose: Annotated[str, typer.Option(help="What for: a case number. Recorded with the alert.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the zip.")],
) -> None:
    """Makes a case file of an alert: a zip with what happened, the pictures and their checksums, which are checked."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = alert_pb2.ExportAlertRequest(
            name=mesh.name(names.alert, alert), actor=mesh.actor(actor), purpose=purpose
        )
        draft = out.with_name(f".{out.name}.part")
        try:
            async with mesh.channel("alert") as channel:
                call: Any = alert_pb2_grpc.AlertServiceStub(channel).ExportAlert(request, timeout=_SECONDS)
                with draft.open("wb") as file:
                    async for piece in call:
                        file.write(piece.data)
            found = check(draft)
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
        output.print_line(out, f"{out.stat().st_size} bytes", f"{len(found.files)} files", f"export {found.export}")
        for each in found.missing:
            output.complain(f"not in it: {each.name}: {each.detail} ({each.reason})")

    execute(run())


def check(path: Path) -> Manifest:
    """The manifest of a case file whose every file is as it says. Raises Refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = Manifest.model_validate_json(archive.read(_MANIFEST))
            names_inside = sorted(archive.namelist())
            if names_inside != sorted([_MANIFEST, *(each.name for each in manifest.files)]):
                raise Refused("the case file does not hold just the files that its manifest names")
            for each in manifest.files:
                content = archive.read(each.name)
                if (len(content), hashlib.sha256(content).hexdigest()) != (each.size, each.sha256):
                    raise Refused(f"{each.name} in the case file is not what its manifest says")
    except (zipfile.BadZipFile, KeyError, ValidationError) as error:
        raise Refused(f"the case file is damaged ({type(error).__name__})") from None
    return manifest
