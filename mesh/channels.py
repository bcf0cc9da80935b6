"""Channels to other services: one factory, so that every client retries, waits and gives up in the same way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc

from mesh import calling
from mesh.settings import ServerSettings, TlsFiles

if TYPE_CHECKING:
    from mesh.tls import Credentials

_NONE: Mapping[str, str] = MappingProxyType({})
MAX_MESSAGE_BYTES = 8 << 20
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 1.0
_Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]

# Every method, streams too: wait while the server is away (bounded by the deadline where there is one), and repeat
# what came back UNAVAILABLE, or CANCELLED, as a server that is going away ends calls that it has not begun (never
# what our own caller gave up). gRPC repeats a stream only as long as nothing was answered; later its owner resumes it.
# Repeats are harmless because our writes carry request ids or content ids.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
    }
)


def connect(
    target: str,
    *,
    service: str = "",
    tls: TlsFiles | None = None,
    token: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    default_timeout: float = 5.0,
    metadata: Mapping[str, str] = _NONE,
) -> grpc.aio.Channel:
    """A channel to `target` (host:port, dns:///..., xds:///...); nothing connects before the first call.

    With `tls` both sides show certificates: the server must be `service` ("match") of the scope of our own. Calls bear
    `token` (a JWT) where one is given. Certificates that are renewed in their files take effect by themselves. Raises
    ValueError (mesh.tls.TlsError) for files that are not an identity, and for a token that would travel in the clear.

    A unary call without a timeout of its own gets `default_timeout` seconds, over all its attempts. A stream has no
    deadline unless given one. Until the server is there, calls wait; but a stream to xds:///... is UNAVAILABLE then:
    its owner opens it again. Every call carries `metadata` (who calls, and why). Close with `await channel.close()`.
    """
    options = _options(max_message_bytes)
    deadline = _ByControlPlane if target.startswith("xds:") else _DefaultDeadline
    if deadline is _DefaultDeadline:  # else gRPC would bind calls to it that come before the control plane
        options.append(("grpc.service_config", _SERVICE_CONFIG))
    if tls is None:
        if token:
            raise ValueError("a token is sent over TLS only")
        adding = calling.interceptors(metadata) if metadata else []
        return grpc.aio.insecure_channel(target, options=options, interceptors=[*adding, deadline(default_timeout)])
    if not service:
        raise ValueError("which service the server must be has to be said")
    # The library that reads certificates takes its time to import: for those who use it.
    from mesh.rotating import RotatingChannel
    from mesh.tls import Identity

    def make(credentials: Credentials) -> grpc.aio.Channel:
        ours = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
        name = credentials.id.neighbour(service).server_name
        return grpc.aio.secure_channel(
            target,
            ours,
            options=[*options, ("grpc.ssl_target_name_override", name)],
            interceptors=[deadline(default_timeout)],
        )

    return RotatingChannel(Identity(tls), make, metadata=[*calling.headers(metadata), *calling.headers(_bearer(token))])


def to_gateway(
    target: str,
    *,
    secure: bool,
    ca: Path | None = None,
    token: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    default_timeout: float = 5.0,
    metadata: Mapping[str, str] = _NONE,
) -> grpc.aio.Channel:
    """A channel from outside the mesh to its gateway at `target` (host:port), behind which all services are.

    With `secure` the gateway must show a certificate for the host in `target`, of a root in `ca` (PEM), else of one
    that gRPC knows; the client shows none. Raises ValueError for roots that cannot be read, for a token in the clear.

    All else is as of `connect`.
    """
    options = [*_options(max_message_bytes), ("grpc.service_config", _SERVICE_CONFIG)]
    if token and not secure:
        raise ValueError("a token is sent over TLS only")
    said = {**metadata, **_bearer(token)}
    adding = calling.interceptors(said) if said else []
    interceptors = [*adding, _DefaultDeadline(default_timeout)]
    if not secure:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(None if ca is None else _roots(ca))
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _roots(path: Path) -> bytes:
    """gRPC takes any bytes for roots, and then never gets a connection."""
    from cryptography import x509  # takes its time to import

    try:
        pem = path.read_bytes()
        x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return pem


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 1),
        # A peer that vanished without a FIN is noticed in 30 s, on idle channels too.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted server is found within a second or so; the default backs off up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # ... also where it came back under another address: names are looked up again after 1 s, not 30.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ]


def to_service(settings: ServerSettings, service: str) -> grpc.aio.Channel:
    """A channel to the service that the setting `{service}_target` leads to, as the settings ask."""
    return connect(
        getattr(settings, f"{service}_target"),
        service=service,
        tls=settings.tls,
        max_message_bytes=settings.max_message_bytes,
    )


class _DefaultDeadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives a unary call without a deadline the channel's, and lets it wait while the server is away."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def intercept_unary_unary(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        given = client_call_details
        timeout = self._seconds if given.timeout is None else given.timeout
        return await self._call(continuation, given, timeout, request)

    async def _call(
        self, continuation: _Continuation, given: grpc.aio.ClientCallDetails, seconds: float, request: Any
    ) -> Any:
        # xDS has no word for it: without, a call before the first replica is there fails at once.
        waits = True if given.wait_for_ready is None else given.wait_for_ready
        return await continuation(_details(given, seconds, waits), request)


class _ByControlPlane(_DefaultDeadline):
    """... also while the control plane is away.

    gRPC binds a call that comes before anything is known, while there is no control plane, to a configuration without
    routes. Were it to wait for a server there it would do so until its deadline, also when all is known. So the first
    calls do not wait: they are repeated.
    """

    _known = False

    async def _call(
        self, continuation: _Continuation, given: grpc.aio.ClientCallDetails, seconds: float, request: Any
    ) -> Any:
        clock = asyncio.get_running_loop().time
        end, pause = clock() + seconds, _FIRST_PAUSE
        while not self._known and given.wait_for_ready is not False:
            call = await continuation(_details(given, max(end - clock(), 0.0), False), request)
            try:
                code = await call.code()
            except asyncio.CancelledError:
                call.cancel()
                raise
            self._known = self._known or code is grpc.StatusCode.OK
            if code is not grpc.StatusCode.UNAVAILABLE or clock() + pause > end:
                return call
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)
        return await super()._call(continuation, given, max(end - clock(), 0.0), request)


def _details(given: grpc.aio.ClientCallDetails, timeout: float, waits: bool) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(given.method, timeout, given.metadata, given.credentials, waits)
