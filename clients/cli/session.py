"""How a command reaches a server, and how it says what went wrong: one line on stderr, status 1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import typer
from typer.core import TyperGroup

from clients.cli.options import os_user
from clients.cli.output import complain
from mesh import channels, names
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, from_rpc
from mesh.settings import TlsFiles, split_host_port

_ANSWER_SECONDS: Final = 5.0
_MAX_PAGE: Final = 1000

T = TypeVar("T")


class Refused(Exception):
    """What the user asked for cannot be done; the text says why."""


class Commands(TyperGroup):
    """All commands. What is refused before a command is executed is told in the same way."""

    def invoke(self, ctx: Any) -> Any:
        """As of any group."""
        try:
            return super().invoke(ctx)
        except Refused as error:
            complain(str(error))
            raise typer.Exit(1) from None


@dataclass(frozen=True, slots=True)
class Gateway:
    """The one address of a store for those outside the mesh."""

    target: str
    """host:port."""
    secure: bool
    """TLS."""
    ca: Path | None
    """The roots that its certificate is of; None for those that gRPC knows."""

    @classmethod
    def parse(cls, address: str, ca: Path | None, *, token: bool) -> Gateway:
        """Of `https://host[:port]`, `http://host:port` or `host:port`. Raises ValueError.

        An address that does not say is meant with TLS where there is a token, which would not go without, or a root.
        """
        scheme, found, rest = address.rpartition("://")
        if found and scheme not in ("http", "https"):
            raise ValueError(f"{address!r} is neither http:// nor https:// nor host:port")
        secure = scheme == "https" if found else token or ca is not None
        rest = rest.removesuffix("/")
        if scheme and ":" not in rest.rpartition("]")[2]:
            rest += ":443" if secure else ":80"
        host, port = split_host_port(rest)
        if not host or not port or "/" in host:
            raise ValueError(f"{address!r} is not host:port")
        return cls(rest, secure, ca)

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.target}"


@dataclass(frozen=True, slots=True)
class Mesh:
    """The store that commands are about, and where its servers are (by service name)."""

    store: str
    targets: dict[str, str]
    tls: TlsFiles | None = None
    """The certificate of this tool; None where servers ask for none."""
    gateway: Gateway | None = None
    """Where all servers are reached instead, from outside the mesh."""
    token: str = ""
    """Of whoever uses it."""
    purpose: str = ""
    """Why all this is done, for the audit log."""

    @property
    def parent(self) -> str:
        """`stores/{store}`. Raises Refused."""
        return self.name(names.store)

    def name(self, make: Callable[..., str], *ids: str) -> str:
        """The resource name of what a user calls by its id, or by its whole name already. Raises Refused."""
        if ids and ids[0].startswith("stores/"):
            return ids[0]
        try:
            return make(self.store, *ids)
        except ValueError as error:
            raise Refused(str(error)) from None

    def actor(self, said: str) -> str:
        """Who does what is done: whoever `said` names, else the token's subject (the server knows), else the user."""
        return said or ("" if self.token else os_user())

    def connect(self, service: str, seconds: float) -> grpc.aio.Channel:
        """A channel to a server, whether it answers or not. Raises Refused for certificates that are not there."""
        said = {name: value for name, value in (("actor", os_user()), ("purpose", self.purpose)) if value}
        try:
            if self.gateway is not None:
                return channels.to_gateway(
                    self.gateway.target,
                    secure=self.gateway.secure,
                    ca=self.gateway.ca,
                    token=self.token,
                    default_timeout=seconds,
                    metadata=said,
                )
            return channels.connect(
                self.targets[service],
                service=service,
                tls=self.tls,
                token=self.token,
                default_timeout=seconds,
                metadata=said,
            )
        except ValueError as error:
            options = "--gateway https://..., --tls-ca" if self.gateway else "--tls-certificate, --tls-key, --tls-ca"
            raise Refused(f"{error} ({options})") from None

    def where(self, service: str) -> str:
        """The address at which a server is reached, for people."""
        return self.targets[service] if self.gateway is None else str(self.gateway)

    @asynccontextmanager
    async def channel(self, service: str, *, seconds: float | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a server that answers; a call has so many `seconds`. Raises Refused when it does not."""
        channel = self.connect(service, seconds or _ANSWER_SECONDS)
        try:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await channel.channel_ready()
            except TimeoutError:
                if self.gateway is not None:
                    why = "" if not self.gateway.secure else "; or its certificate is not for that name, or of --tls-ca"
                    raise Refused(f"the gateway does not answer at {self.gateway} (POI_GATEWAY){why}") from None
                where = f"{self.targets[service]} (POI_{service.upper()}_TARGET)"
                raise Refused(f"the {service} server does not answer at {where}") from None
            yield channel
        finally:
            await channel.close()


def execute(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command to its end; what fails becomes one line and status 1, Ctrl-C status 130."""
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        complain(explain(from_rpc(error)))
    except MeshError as error:
        complain(explain(error))
    except BrokenPipeError:
        raise  # whoever read it has had enough: no more is said
    except (Refused, OSError) as error:
        complain(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(1)


def explain(error: MeshError) -> str:
    """The error in one line: what, where in the request, and the reason that a program would look at."""
    fields = ""
    if isinstance(error, InvalidArgument):
        told = [f"{field}: {text}" if field else text for field, text in error.violations]
        fields = "".join(f"; {each}" for each in told if each not in error.message)
    if isinstance(error, FailedPrecondition) and error.violations:
        message = "; ".join(f"{subject}: {text}" for _, subject, text in error.violations)
        return f"{message} ({error.reason})"
    return f"{error.message}{fields} ({error.reason})"


def read_image(path: Path) -> bytes:
    """The bytes of an image file. Raises Refused."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None


async def pages(call: Callable[[Any], Any], request: Any, items: str, limit: int) -> Any:
    """The response with the first `limit` of all pages' `items`; it keeps a page token where there are more."""
    whole: Any = None
    while whole is None or (whole.next_page_token and len(getattr(whole, items)) < limit):
        request.page_size = min(limit - (len(getattr(whole, items)) if whole else 0), _MAX_PAGE)
        request.page_token = whole.next_page_token if whole else ""
        page = await call(request)
        if whole is None:
            whole = page
        else:
            getattr(whole, items).extend(getattr(page, items))
            whole.next_page_token = page.next_page_token
    return whole
