"""`python -m mesh.token`: tokens for people and clients of a store without an identity provider."""

from __future__ import annotations

import getpass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from mesh.pki.__main__ import a_span
from mesh.principal import Role
from mesh.token.accounts import Accounts, AccountsError

Directory = Annotated[Path, typer.Option("--keys", envvar="POI_KEYS_DIR", help="Where the keys are that sign.")]
_HERE: Final = Path(typer.get_app_dir("poi-mesh")) / "keys"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def token() -> None:
    """Tokens for people and clients of a store without an identity provider."""


@app.command()
def issue(
    role: Annotated[list[Role], typer.Option(help="What they do (repeat).")],
    store: Annotated[list[str], typer.Option(help="Id of a store of theirs (repeat), or * for all.")],
    subject: Annotated[
        str, typer.Option(help="Who: what alerts and records will say.", default_factory=getpass.getuser)
    ],
    lifetime: Annotated[timedelta, typer.Option("--for", parser=a_span, metavar="SPAN", help="How long.")] = "8h",  # type: ignore[assignment]
    client: Annotated[bool, typer.Option("--client", help="For a program, not for a person.")] = False,
    audience: Annotated[str, typer.Option(help="Which mesh it is for.")] = "poi-mesh",
    directory: Directory = _HERE,
) -> None:
    """Prints a token; the first one makes the key that signs, and jwks.json for the servers (POI_JWKS)."""
    accounts = Accounts(directory)
    try:
        made = accounts.issue(subject, role, store, lifetime, audience=audience, client=client)
    except (AccountsError, OSError) as error:
        _stop(error)
    typer.echo(made)


@app.command()
def rotate(
    drop: Annotated[bool, typer.Option("--drop", help="End the tokens of the older keys, too.")] = False,
    directory: Directory = _HERE,
) -> None:
    """Makes a new key, which signs from now on; older tokens stay good until they end, or until --drop."""
    accounts = Accounts(directory)
    try:
        accounts.add_key()
        dropped = accounts.drop_old() if drop else 0
    except (AccountsError, OSError) as error:
        _stop(error)
    typer.echo(f"a new key signs; {dropped} older ones are gone; servers read {accounts.jwks}")


def _stop(error: Exception) -> NoReturn:
    typer.echo(f"token: {error}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m mesh.token")
