"""A gRPC server: health, reflection, limits, interceptors, metrics, and an orderly end on SIGTERM.

The end: long streams are told (`draining`) and health says NOT_SERVING; for `drain_seconds` calls are still taken while
balancers look elsewhere; then none are, and those that run have `grace_seconds`; then what `on_stop` was given is
closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import orjson
import structlog
import uvloop
from grpc_health.v1 import health_pb2_grpc

from mesh import interceptors as standard_interceptors
from mesh import limits, redis, reflection, registration, telemetry
from mesh.aio import Background
from mesh.audit import recorder
from mesh.audit.interceptor import AuditInterceptor
from mesh.health import SERVICE as HEALTH_SERVICE
from mesh.health import Health
from mesh.settings import ServerSettings, program_name, refuse, split_host_port

if TYPE_CHECKING:
    from mesh.auth import Refusals
    from mesh.interceptors.shares import Identify
    from mesh.tls import Credentials, Identity

_log = structlog.get_logger(__name__)
Servicer = TypeVar("Servicer")

_LEAVE_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
"""What one `on_stop` may take before the server goes on without it: Kubernetes kills after 30 s."""


class Server:
    """One server of the mesh. Create it inside the event loop, add services, then `await serve()`.

    Tests may use it as an async context manager, which starts and stops it: `address` then says where it is.
    """

    def __init__(self, settings: ServerSettings, *, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> None:
        """`interceptors` run inside the standard ones: their errors are answered and counted like a handler's."""
        telemetry.configure(settings.log_level, settings.log_format, settings.service)
        self.draining = asyncio.Event()
        self._settings = settings
        self._health = Health()
        self._services: list[str] = []
        self._starters: list[Callable[[], object]] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._stop_asked = asyncio.Event()
        self._stopped = False
        self._metrics: telemetry.MetricsServer | None = None
        self._background = Background()
        self._registration: asyncio.Task[None] | None = None
        self._port = 0
        self._identity = self._read_identity()
        authorisation: list[grpc.aio.ServerInterceptor] = []
        identify: Identify | None = None
        refusals: Refusals | None = None
        if self._identity and settings.auth == "required":
            from mesh import auth  # with the library that checks signatures, which takes its time to import

            authenticator = auth.Authenticator.of(settings, self._identity.current.id.trust_domain)
            self.on_stop(authenticator.close)
            refusals = auth.Refusals(recorder.record_refusal) if settings.audit_redis_url else None
            guard = auth.AuthInterceptor(authenticator, on_refusal=refusals.tell if refusals else None)
            authorisation, identify = [guard], guard.identify
        audit = self._audit()
        if refusals is not None:
            self.on_stop(refusals.close)
        self._grpc = grpc.aio.server(
            interceptors=[*standard_interceptors.standard(*authorisation, identify=identify), *interceptors, *audit],
            options=[
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                # A port that is taken must be an error: with SO_REUSEPORT two servers would share it unawares.
                ("grpc.so_reuseport", 0),
                # A client that vanished is noticed; those that are there ping, too, also when idle (see limits).
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                *limits.OPTIONS,
            ],
        )

    def _audit(self) -> list[grpc.aio.ServerInterceptor]:
        """Innermost: records what was let in, and how it went."""
        settings = self._settings
        if not settings.audit_redis_url:
            return []
        client = redis.connect(settings.audit_redis_url)
        auditor = recorder.Auditor(client, settings.service, settings.audit_store)
        recorder.install(auditor)
        self.on_stop(client.aclose)
        self.on_stop(auditor.close)
        return [AuditInterceptor(auditor, require_purpose=settings.audit_require_purpose)]

    @property
    def address(self) -> str:
        """host:port with the port that is really listened on. Empty before the start."""
        return f"{split_host_port(self._settings.listen)[0]}:{self._port}" if self._port else ""

    @property
    def metrics_address(self) -> str:
        """host:port of the Prometheus endpoint; empty when switched off or before the start."""
        return self._metrics.address if self._metrics else ""

    def add(self, register: Callable[[Servicer, grpc.aio.Server], None], servicer: Servicer, service: str) -> None:
        """Serve `servicer` (by the generated add_XServicer_to_server) as `service` ("poi.v1.MatchService")."""
        register(servicer, self._grpc)
        self._services.append(service)
        self._health.set(service, True)

    def on_start(self, start: Callable[[], object]) -> None:
        """Call `start` once the addresses are ours: work that must not begin in a server that cannot serve."""
        self._starters.append(start)

    def on_stop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Await `close` once no RPC runs any more; the last one added goes first."""
        self._closers.append(close)

    def set_serving(self, service: str, serving: bool) -> None:
        """Tell health whether `service` can do its work. Until told otherwise it can."""
        self._health.set(service, serving)

    def ask_stop(self) -> None:
        """Let `serve` end as on SIGTERM. May be called at any time, any number of times."""
        self._stop_asked.set()

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_stop)
        try:
            async with self:
                await self._stop_asked.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def __aenter__(self) -> Server:
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Drain, stop and close, as at SIGTERM; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        settings, started = self._settings, time.perf_counter()
        _log.info("draining", drain_seconds=settings.drain_seconds, grace_seconds=settings.grace_seconds)
        self.draining.set()
        self._health.shut()
        try:
            if settings.ready_file:
                settings.ready_file.unlink(missing_ok=True)
            await asyncio.sleep(settings.drain_seconds)
            if self._registration is not None:  # the leave is heard, where the control plane is there to hear it
                await asyncio.wait([self._registration], timeout=_LEAVE_SECONDS)
        finally:
            self._health.end_watches()
            await self._close()
        _log.info("stopped", seconds=round(time.perf_counter() - started, 3))

    async def _start(self) -> None:
        settings = self._settings
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)  # type: ignore[no-untyped-call]
        reflection.add_to_server([*self._services, HEALTH_SERVICE], self._grpc, self.draining)
        self._port = self._bind()
        if settings.metrics_listen:
            try:
                self._metrics = telemetry.MetricsServer(
                    settings.metrics_listen, healthy=lambda: self._health.serving, tls=settings.tls
                )
            except (OSError, ValueError) as error:
                self._refuse("metrics_listen", settings.metrics_listen, error)
        for start in self._starters:
            start()
        await self._grpc.start()
        self._health.open()
        if settings.control_plane and settings.registers:
            self._start_registration()
        if settings.ready_file:
            self._write_ready_file()
        _log.info(
            "serving", listen=self.address, metrics=self.metrics_address, services=self._services, pid=os.getpid()
        )

    def _start_registration(self) -> None:
        try:
            address = registration.advertised(self._settings, self.address)
        except ValueError as error:
            refuse(program_name(type(self._settings)), f"POI_{self._settings.service.upper()}_ADVERTISE: {error}")
        entry = registration.Registration(self._settings, address, self._health, self.draining)
        self._registration = self._background.start("register", entry.run)

    def _bind(self) -> int:
        listen = self._settings.listen
        host, port = split_host_port(listen)
        try:
            # gRPC says why it cannot bind on a line of its own, in its own format; so ask the system first.
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM
            ):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
            if self._identity is None:
                return self._grpc.add_insecure_port(listen)
            return self._grpc.add_secure_port(listen, _server_credentials(self._identity))
        except (OSError, RuntimeError) as error:
            self._refuse("listen", listen, error)

    def _read_identity(self) -> Identity | None:
        settings = self._settings
        if settings.tls is None:
            return None
        # With the library that reads certificates, which takes its time to import.
        from mesh.tls import Identity, TlsError

        try:
            return Identity(settings.tls)
        except TlsError as error:
            refuse(program_name(type(settings)), f"POI_{settings.service.upper()}_TLS: {error}")

    def _refuse(self, field: str, address: str, error: Exception) -> NoReturn:
        variable = f"POI_{self._settings.service}_{field}".upper()
        why = getattr(error, "strerror", None) or str(error)
        refuse(program_name(type(self._settings)), f"{variable}: cannot listen on {address!r}: {why}")

    def _write_ready_file(self) -> None:
        path = self._settings.ready_file
        assert path is not None
        content = {"listen": self.address, "metrics": self.metrics_address, "pid": os.getpid()}
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_bytes(orjson.dumps(content))
        draft.replace(path)

    async def _close(self) -> None:
        await asyncio.gather(
            self._grpc.stop(self._settings.grace_seconds), self._close_metrics(), self._background.close()
        )
        for close in reversed(self._closers):
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await close()
            except Exception:  # the others must be closed all the same
                _log.exception("close_failed", what=getattr(close, "__qualname__", repr(close)))

    async def _close_metrics(self) -> None:
        if self._metrics:
            await asyncio.to_thread(self._metrics.close)  # waits for its thread, which looks up twice a second


def _server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Mutual TLS with whatever the files hold when a client connects."""

    def configuration(held: Credentials) -> Any:
        return grpc.ssl_server_certificate_configuration([(held.key, held.certificate)], held.ca)

    def renewed() -> Any:  # called for each connection, by threads of gRPC's
        fresh = identity.refresh()
        return configuration(fresh) if fresh else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(identity.current), renewed, require_client_authentication=True
    )


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a server's main coroutine on uvloop until it returns."""
    uvloop.run(main())
