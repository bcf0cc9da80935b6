"""What a server tells its operators: structured logs on stderr, Prometheus metrics on a side port.

Logs are one JSON object a line (or coloured text), of structlog and of the standard library's logging alike. Nothing
that is logged may hold the contents of a request, an embedding, an image or a person's name.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TextIO, cast
from wsgiref.simple_server import WSGIServer

import orjson
import prometheus_client
import structlog

from mesh.settings import split_host_port

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


class MetricsServer:
    """Serves `/metrics` of this process from a thread of its own, and `/health` for probes that know HTTP only."""

    def __init__(
        self,
        listen: str,
        registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY,
        *,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """Listens on `listen` ("host:port", port 0 for a free one). Raises OSError when it cannot.

        `/health` answers 200 while `healthy`, else 503.
        """
        host, port = split_host_port(listen)
        self._http: WSGIServer
        self._thread: Thread
        self._http, self._thread = prometheus_client.start_http_server(port, host.strip("[]"), registry)
        metrics = self._http.get_app()
        assert metrics is not None

        def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/health":
                return metrics(environ, start_response)
            start_response("200 OK" if healthy() else "503 Service Unavailable", [("Content-Length", "0")])
            return [b""]

        self._http.set_app(answer)
        self.address = f"{host}:{self._http.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    if log_format == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _json(event: Any, default: Callable[[Any], Any] | None = None, **_: Any) -> str:
    return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
