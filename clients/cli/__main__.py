"""`python -m clients.cli`: the `poi` command."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli import (
    alert_settings,
    alerts,
    approvals,
    audit,
    erase,
    export,
    faces,
    feedback,
    importing,
    investigate,
    operations,
    people,
    person,
    places,
    targets,
    tuning,
    watchlists,
)
from clients.cli.options import AUDIT, SERVICES
from clients.cli.session import Commands, Gateway, Mesh
from mesh.settings import TlsFiles

app = typer.Typer(
    name="poi",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _target(service: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        envvar=f"POI_{service.upper()}_TARGET", help=f"Where the {service} server is.", show_default=True
    )
    return option


@app.callback()
def poi(
    context: typer.Context,
    store: Annotated[str, typer.Option(envvar="POI_STORE", help="Id of the store.")] = "store-1",
    embed_target: Annotated[str, _target("embed")] = SERVICES["embed"],
    match_target: Annotated[str, _target("match")] = SERVICES["match"],
    history_target: Annotated[str, _target("history")] = SERVICES["history"],
    region_target: Annotated[str, _target("region")] = SERVICES["region"],
    alert_target: Annotated[str, _target("alert")] = SERVICES["alert"],
    ingest_target: Annotated[str, _target("ingest")] = SERVICES["ingest"],
    audit_target: Annotated[str, _target("audit")] = AUDIT,
    gateway: Annotated[
        str,
        typer.Option(
            envvar="POI_GATEWAY",
            metavar="ADDRESS",
            help="Instead of all these: the gateway, https://HOST[:PORT], or http:// where it has no TLS. It wants a "
            "token and --tls-ca at most: no certificate of this tool.",
        ),
    ] = "",
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="POI_TLS_CERTIFICATE", help="This tool's certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="POI_TLS_KEY", help="Its key.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(envvar="POI_TLS_CA", help="The roots that servers are of.")] = None,
    token: Annotated[
        str, typer.Option(envvar="POI_TOKEN", help="Who you are: a JWT. Better in the variable than here.")
    ] = "",
    purpose: Annotated[str, typer.Option(envvar="POI_PURPOSE", help="Why you ask, for the audit log.")] = "",
) -> None:
    """Persons of interest: who they are, where they are, where they were."""
    targets = (embed_target, match_target, history_target, region_target, alert_target, ingest_target)
    token = token.strip()
    by_gateway, tls = None, None
    files = [path for path in (tls_certificate, tls_key, tls_ca) if path is not None]
    if gateway:
        try:
            by_gateway = Gateway.parse(gateway, tls_ca, token=bool(token))
        except ValueError as error:
            raise typer.BadParameter(f"--gateway: {error}") from None
    elif len(files) not in (0, 3):
        raise typer.BadParameter("--tls-certificate, --tls-key and --tls-ca go together")
    elif files:
        tls = TlsFiles(*files)
    by_name = {**dict(zip(SERVICES, targets, strict=True)), "audit": audit_target}
    context.obj = Mesh(store, by_name, tls, by_gateway, token, purpose)


_COMMANDS = (
    people,
    importing,
    watchlists,
    tuning,
    faces,
    alerts,
    alert_settings,
    feedback,
    export,
    targets,
    investigate,
    erase,
    person,
    places,
    operations,
    audit,
    approvals,
)
for commands in _COMMANDS:
    commands.register(app)

if __name__ == "__main__":
    app(prog_name="poi")
