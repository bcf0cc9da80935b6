"""Settings: frozen typed objects, read once at start from the environment and, optionally, one TOML file.

A service subclasses `ServerSettings`, names itself in `service`, and puts a docstring under every field. The field
`listen` of service `match` is read from `POI_MATCH_LISTEN`, else `POI_LISTEN`, else the file, else its default: so
one environment serves all services. The file (`--config FILE`, or `POI_CONFIG`) holds fields at its top, for every
service that reads it, and in a table named after a service, for that one only; a table wins over the top. A wrong
value or an unknown key ends the process with status 2 and one line on stderr.

Only `load` reads the environment: an object built by hand has its arguments and the defaults, nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mesh import brokers

PREFIX = "POI_"
SERVICES = ("embed", "match", "history", "region", "alert", "ingest", "audit", "xds")
"""The services that may have a table in a shared file."""

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_TARGET_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
_WHOLE_MESH = "mesh"
_STORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def split_host_port(value: str) -> tuple[str, int]:
    """("127.0.0.1", 7001) of "127.0.0.1:7001"; an IPv6 host keeps its brackets. Raises ValueError."""
    found = _HOST_PORT.fullmatch(value)
    if found is None or int(found["port"]) > 65535:
        raise ValueError(f"{value!r} is not host:port")
    return found["host"], int(found["port"])


def _host_port(value: str) -> str:
    split_host_port(value)
    return value


def _host_port_or_off(value: str) -> str:
    return _host_port(value) if value else value


def _target(value: str) -> str:
    return value if value.startswith(_TARGET_SCHEMES) else _host_port(value)


def _chain_id(value: str) -> str:
    return value if value == _WHOLE_MESH else _store_id(value)


def _store_id(value: str) -> str:
    if value == _WHOLE_MESH:  # a certificate of that scope is good for all stores
        raise ValueError(f"{value!r} is what all stores are called together: a store needs another id")
    if not _STORE.fullmatch(value):
        raise ValueError(f"{value!r} is not a store id (letters, digits and . _ : -, 128 at most)")
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("is not a redis://, rediss:// or unix:// URL")
    return value


def _redis_url_or_off(value: str) -> str:
    return _redis_url(value) if value else value


def _target_or_off(value: str) -> str:
    return _target(value) if value else value


HostPort = Annotated[str, AfterValidator(_host_port)]
"""host:port, port 0 meaning a free one."""
Target = Annotated[str, AfterValidator(_target)]
"""Where another service is: host:port or a gRPC target such as dns:///match:7002 or xds:///match."""
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
RedisUrlOrOff = Annotated[str, AfterValidator(_redis_url_or_off)]
"""A Redis, or nothing when empty."""
MqttUrl = Annotated[str, AfterValidator(brokers.check)]
"""See `mesh.brokers`."""
StoreId = Annotated[str, AfterValidator(_store_id)]
ChainId = Annotated[str, AfterValidator(_chain_id)]
"""A store, or `mesh` for what is of none."""
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A path, or nothing when empty."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate (and those that lead to a root), its key, and the roots that we trust."""

    certificate: Path
    key: Path
    ca: Path


class ServerSettings(BaseSettings):
    """What every server can be told. A service adds its own fields and its default ports."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )
    service: ClassVar[str]
    """Short name of the service: "match". It picks the environment names and the table of the file."""
    registers: ClassVar[bool] = True
    """Whether others look for it through the control plane."""

    listen: HostPort = "127.0.0.1:0"
    """Address of the gRPC server. Port 0 takes a free one; the "serving" log line and the ready file tell which."""
    metrics_listen: Annotated[str, AfterValidator(_host_port_or_off)] = "127.0.0.1:0"
    """Address of the Prometheus endpoint (`/metrics`); empty switches it off."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
    log_format: Literal["json", "console"] = "json"
    """json: one object a line, for machines; console: coloured text, for people."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = 8 << 20
    """Largest gRPC message, in bytes, that is received or sent."""
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 0.5
    """Seconds between NOT_SERVING and the end of listening, in which balancers look elsewhere."""
    grace_seconds: Annotated[float, Field(ge=0, le=300)] = 5.0
    """Seconds that running calls get to finish once the server no longer takes new ones."""
    audit_redis_url: RedisUrlOrOff = ""
    """Redis of the audit log: every read and change of what is kept of people is recorded there, and refused while it
    cannot be. Empty, the default, switches that off."""
    audit_store: ChainId = "mesh"
    """Whose chain takes the records of calls that name no store."""
    audit_require_purpose: bool = False
    """Refuse enrolments, searches, exports and erasures that do not say why (metadata `purpose`)."""
    control_plane: Annotated[str, AfterValidator(_target_or_off)] = ""
    """Where this server registers itself, so that others find it; empty: others are told of it (Kubernetes, a file)."""
    advertise: Annotated[str, AfterValidator(_host_port_or_off)] = ""
    """IP address and port that others reach it by, for the control plane; empty is what it listens on."""
    zone: str = ""
    """Where it stands, for the control plane: callers prefer what is near."""
    ready_file: OptionalPath = None
    """Where to write {"listen", "metrics", "pid"} as JSON once serving: how a launcher learns of free ports."""
    tls_certificate: OptionalPath = None
    """PEM file with this server's certificate, SPIFFE id in it; empty: no TLS. Read again when it changes."""
    tls_key: OptionalPath = None
    """PEM file with the certificate's key."""
    tls_ca: OptionalPath = None
    """PEM file with the roots that signed whom we talk to."""
    auth: Literal["off", "required"] = "off"
    """required: who calls must be known, by certificate or token, and allowed to. Needs TLS."""
    jwks: str = ""
    """Keys of local accounts (`python -m mesh.token`): a JWKS file, read again when it changes, or an https:// URL."""
    jwt_issuers: dict[str, str] = {}
    """Identity providers, as JSON: issuer to the file or https:// URL of its JWKS, "" to ask the provider (OIDC)."""
    jwt_audience: Annotated[str, Field(min_length=1)] = "poi-mesh"
    """What tokens must be for (`aud`)."""
    jwt_roles_claim: Annotated[str, Field(min_length=1)] = "roles"
    """The claim with a person's roles, dots leading inwards: `realm_access.roles`."""
    jwt_stores_claim: Annotated[str, Field(min_length=1)] = "stores"
    """The claim with the ids of a person's stores, `*` for all; dots as for roles."""

    @property
    def tls(self) -> TlsFiles | None:
        """The files of this server's identity; None without TLS."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_ca)

    @model_validator(mode="after")
    def _whole_identity(self) -> Self:
        prefix = f"{PREFIX}{self.service.upper()}"
        given = [path is not None for path in (self.tls_certificate, self.tls_key, self.tls_ca)]
        if any(given) and not all(given):
            raise ValueError(f"{prefix}_TLS_CERTIFICATE, _TLS_KEY and _TLS_CA go together")
        if self.auth == "required" and not all(given):
            raise ValueError(f"{prefix}_AUTH: required needs {prefix}_TLS_CERTIFICATE, _TLS_KEY and _TLS_CA")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


S = TypeVar("S", bound=ServerSettings)


def load(cls: type[S], argv: Sequence[str] | None = None) -> S:
    """The settings of this process, from the environment and the file that `argv` (default: the command line) names.

    Raises SystemExit(2) after one line on stderr when something is wrong, SystemExit(0) after `--help`.
    """
    program = program_name(cls)
    parser = _Parser(prog=program, description=_describe(cls), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help=f"TOML file with settings (else {PREFIX}CONFIG)")
    chosen: str | None = parser.parse_args(argv).config
    path = chosen if chosen is not None else os.environ.get(f"{PREFIX}CONFIG") or None
    specific, shared = _prefixes(cls)
    try:
        from_file = _read_file(cls, path) if path else {}
        from_environment = {
            **EnvSettingsSource(cls, env_prefix=shared)(),
            **EnvSettingsSource(cls, env_prefix=specific)(),
        }
        return cls(**{**from_file, **from_environment})
    except ValidationError as error:
        refuse(
            program, "; ".join(_explain(cls, problem, from_file, from_environment, path) for problem in error.errors())
        )
    except SettingsError as error:
        refuse(program, _explain_source(cls, str(error)))
    except _FileError as error:
        refuse(program, str(error))


def refuse(program: str, why: str) -> NoReturn:
    """End the process with status 2 after one line that says what to change."""
    line = " ".join(f"{program}: {why}".split())
    sys.stderr.write(line + "\n")
    raise SystemExit(2)


def program_name(cls: type[ServerSettings]) -> str:
    """How the service calls itself: the package of its settings ("match_svc"), else the service's short name."""
    return cls.__module__.rpartition(".")[0] or f"{cls.service}_svc"


class _FileError(Exception):
    """The TOML file cannot be used."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        refuse(self.prog, message)


def _prefixes(cls: type[ServerSettings]) -> tuple[str, str]:
    return f"{PREFIX}{cls.service.upper()}_", PREFIX


def _read_file(cls: type[ServerSettings], path: str) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _FileError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _FileError(f"{path}: not TOML: {error}") from error
    tables = {name: content.pop(name) for name in SERVICES if isinstance(content.get(name), dict)}
    return {**content, **tables.get(cls.service, {})}


def _variable(cls: type[ServerSettings], field: str) -> str:
    """The variable that a field was, or would be, read from."""
    specific, shared = _prefixes(cls)
    present = {name.upper(): name for name in os.environ}
    for prefix in (specific, shared):
        if f"{prefix}{field}".upper() in present:
            return present[f"{prefix}{field}".upper()]
    return f"{specific}{field}".upper()


def _explain(
    cls: type[ServerSettings],
    problem: Any,
    from_file: Mapping[str, Any],
    from_environment: Mapping[str, Any],
    path: str | None,
) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such setting (from {path})"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] != "value_error":
        message = message[:1].lower() + message[1:]
        if problem["type"] != "missing":
            message = f"{_masked(problem['input'])}: {message}"
    if field in from_environment:
        return f"{_variable(cls, field)}: {message} (from environment)"
    if field in from_file:
        return f"{where}: {message} (from {path})"
    return f"{_variable(cls, field)}: {message} (default)" if field else message


def _masked(value: object) -> str:
    """The value for the error line, without a password that a URL may hold."""
    text = re.sub(r"//[^@/\s]*@", "//***@", repr(value))
    return text if len(text) <= 100 else text[:99] + "…"


def _explain_source(cls: type[ServerSettings], message: str) -> str:
    """pydantic-settings stops at a list or object that is not JSON: name the variable."""
    found = re.search(r'field "(\w+)"', message)
    return f"{_variable(cls, found[1])}: is not JSON (from environment)" if found else message


def _describe(cls: type[ServerSettings]) -> str:
    specific, shared = _prefixes(cls)
    lines = [f"Settings: variable {specific}<NAME>, else {shared}<NAME>, else <name> in the TOML file.", ""]
    for name, field in cls.model_fields.items():
        lines += [f"  {name} = {field.default!r}", f"      {' '.join((field.description or '').split())}"]
    return "\n".join(lines)
