"""`python -m mesh.pki`: certificates for a mesh on a machine of one's own."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from mesh.pki.authority import Authority, Issued, PkiError

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def a_span(text: str) -> timedelta:
    """`90m`, `24h` or `30d`. Raises BadParameter."""
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not like 90m, 24h or 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


Directory = Annotated[
    Path, typer.Option("--dir", envvar="POI_PKI_DIR", help="Where the authority and its certificates are.")
]
_HERE: Final = Path(typer.get_app_dir("poi-mesh")) / "pki"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def pki() -> None:
    """Certificates for a mesh on a machine of one's own; in Kubernetes, cert-manager makes them."""


@app.command()
def init(
    directory: Directory = _HERE,
    trust_domain: Annotated[str, typer.Option(help="The first part of every identity.")] = "poi-mesh",
) -> None:
    """Makes the root."""
    try:
        Authority(directory).create(trust_domain)
    except (PkiError, OSError) as error:
        _stop(error)
    typer.echo(f"the authority of {trust_domain} is in {directory}: keep ca/root.key to yourself")


@app.command()
def issue(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Services (match), or clients (cli).")],
    scope: Annotated[str, typer.Option(envvar="POI_STORE", help='The store they are of, or "mesh" for all.')] = "mesh",
    lifetime: Annotated[timedelta, typer.Option("--for", parser=a_span, metavar="SPAN", help="How long.")] = "24h",  # type: ignore[assignment]
    host: Annotated[list[str] | None, typer.Option(help="Another DNS name or address of theirs (repeat).")] = None,
    directory: Directory = _HERE,
) -> None:
    """Makes a certificate for each name, in a directory of that name."""
    try:
        for name in names:
            _print(Authority(directory).issue(name, scope, lifetime, hosts=host or ()))
    except (PkiError, OSError, ValueError) as error:
        _stop(error)


@app.command()
def renew(
    everything: Annotated[bool, typer.Option("--all", help="Also those with more than a third to live.")] = False,
    directory: Directory = _HERE,
) -> None:
    """Makes new certificates for the identities that need one: run it by a timer, every hour."""
    try:
        for issued in Authority(directory).renew(everything=everything):
            _print(issued)
    except (PkiError, OSError, ValueError) as error:
        _stop(error)


@app.command()
def roll(directory: Directory = _HERE) -> None:
    """Makes a new root beside the old one. Then, each when all have read the files: renew, and retire."""
    try:
        Authority(directory).roll()
    except (PkiError, OSError) as error:
        _stop(error)


@app.command()
def retire(directory: Directory = _HERE) -> None:
    """Lets nobody trust the old root any more."""
    try:
        Authority(directory).retire()
    except (PkiError, OSError) as error:
        _stop(error)


def _print(issued: Issued) -> None:
    typer.echo(f"{issued.id}  until {issued.not_after:%Y-%m-%d %H:%M} UTC  {issued.files.certificate.parent}")


def _stop(error: Exception) -> NoReturn:
    typer.echo(f"pki: {error}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m mesh.pki")
