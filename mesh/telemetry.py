"""What a server tells its operators: structured logs on stderr, Prometheus metrics on a side port.

Logs are one JSON object a line (or coloured text), of structlog and of the standard library's logging alike. Nothing
that is logged may hold the contents of a request, an embedding, an image or a person's name.
"""

from __future__ import annotations

import io
import logging
import ssl
import sys
from collections.abc import Callable, Iterable
from functools import partial
from socket import AF_INET, AF_INET6, socket
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TextIO, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import orjson
import prometheus_client
import structlog

from mesh.settings import TlsFiles, split_host_port

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Histogram buckets in seconds, for a mesh whose aims lie between 1 ms (a match) and 1 s (a search)."""


class _Stderr(io.TextIOBase):
    """Whatever sys.stderr is at the time of writing: who replaces it (test runners do) gets the logs too."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


_STDERR: Final = cast(TextIO, _Stderr())


def configure(level: str, log_format: str, service: str) -> None:
    """Send all logs of this process, from `level` up, to stderr in `log_format` ("json" or "console")."""
    number = logging.getLevelNamesMapping()[level.upper()]

    def name_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
    ]
    structlog.configure(
        processors=[*shared, *_renderers(log_format)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(_STDERR),
    )
    handler = logging.StreamHandler(_STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format)],
        )
    )
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.INFO))  # libraries at debug level drown what we say


MONITORING: Final = "monitoring"
"""The name in the certificate of who may read metrics, where there are certificates."""
_PEER: Final = "poi.peer"
"""Where the client's certificate is in the environment of a request."""


class MetricsServer:
    """Serves `/metrics` of this process from threads of its own, and `/health` for probes that know HTTP only.

    With `tls` over TLS; metrics are then for those alone who show a certificate of `MONITORING`. Health is for anyone:
    Kubernetes' probes have no certificate, and check none.
    """

    def __init__(
        self,
        listen: str,
        registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY,
        *,
        healthy: Callable[[], bool] = lambda: True,
        tls: TlsFiles | None = None,
        seconds: float = 10.0,
    ) -> None:
        """Listens on `listen` ("host:port", port 0 for a free one). Raises OSError when it cannot, or TlsError.

        `/health` answers 200 while `healthy`, else 503. A client that says nothing for so many `seconds` is left.
        """
        host, port = split_host_port(listen)
        metrics = prometheus_client.make_wsgi_app(registry)
        context: ssl.SSLContext | None = None
        may_read: Callable[[Any], bool] | None = None
        if tls is not None:
            from mesh.tls import is_called, server_context  # with the library that reads certificates

            context, may_read = server_context(tls, ask=True), partial(is_called, MONITORING)

        def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/health":
                status = "200 OK" if healthy() else "503 Service Unavailable"
            elif may_read is not None and not may_read(environ[_PEER]):
                status = "403 Forbidden"
            else:
                page: Iterable[bytes] = metrics(environ, start_response)
                return page
            start_response(status, [("Content-Length", "0")])
            return [b""]

        class Handler(_Handler):
            timeout = seconds

        class Server(_HttpServer):
            address_family = AF_INET6 if ":" in host else AF_INET

        self._http = Server((host.strip("[]"), port), Handler)
        self._http.set_app(answer)
        self._http.tls = context
        self._thread = Thread(target=self._http.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        self.address = f"{host}:{self._http.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _HttpServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            # Who connects and says nothing keeps its own thread waiting, not this one.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What clients do wrong (no TLS, no word, no patience) is not our error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        return {**super().get_environ(), _PEER: certificate}

    def log_message(self, *_: object) -> None:
        """A scrape is nothing to tell."""


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    if log_format == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _json(event: Any, default: Callable[[Any], Any] | None = None, **_: Any) -> str:
    return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
