"""Logs and the metrics port."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from mesh import telemetry
from mesh.pki import Authority
from mesh.settings import TlsFiles


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_json_lines_of_structlog_and_of_logging(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("info", "json", "match")
    structlog.get_logger().info("serving", listen="127.0.0.1:1", count=2)
    structlog.get_logger().debug("not shown")
    logging.getLogger("paho").warning("connection %s", "lost")
    ours, theirs = map(json.loads, written(capsys))
    assert {key: ours[key] for key in ("event", "level", "service", "listen", "count")} == {
        "event": "serving",
        "level": "info",
        "service": "match",
        "listen": "127.0.0.1:1",
        "count": 2,
    }
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("connection lost", "warning", "paho")


def test_a_traceback_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("info", "json", "match")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("lib").exception("failed too")
    lines = [json.loads(line) for line in written(capsys)]
    assert [line["event"] for line in lines] == ["failed", "failed too"]
    assert all("ValueError: broken" in line["exception"] for line in lines)


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("info", "json", "match")
    telemetry.configure("error", "console", "match")
    structlog.get_logger().info("not shown")
    logging.getLogger("lib").error("shown once")
    (line,) = written(capsys)
    assert "shown once" in line
    assert not line.startswith("{")


async def test_the_metrics_port() -> None:
    registry = CollectorRegistry()
    Counter("poi_things", "Things.", registry=registry).inc(3)
    server = telemetry.MetricsServer("127.0.0.1:0", registry)

    def get() -> str:
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=60) as answer:
            return str(answer.read(), "utf-8")

    assert "poi_things_total 3.0" in await asyncio.to_thread(get)
    await asyncio.to_thread(server.close)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(get)


async def test_health_for_probes_that_speak_http_only() -> None:
    serving = True
    server = telemetry.MetricsServer("127.0.0.1:0", CollectorRegistry(), healthy=lambda: serving)

    def status() -> int:
        try:
            with urllib.request.urlopen(f"http://{server.address}/health", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert await asyncio.to_thread(status) == 200
    serving = False
    assert await asyncio.to_thread(status) == 503
    await asyncio.to_thread(server.close)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.create("poi-mesh")
    return made


def issue(authority: Authority, name: str) -> TlsFiles:
    return authority.issue(name, "mesh", timedelta(hours=1)).files


def visit(server: telemetry.MetricsServer, path: str, context: ssl.SSLContext) -> int:
    """The status of a GET over TLS; 0 where there is no answer."""
    try:
        with urllib.request.urlopen(f"https://{server.address}{path}", timeout=60, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def shows(files: TlsFiles) -> ssl.SSLContext:
    """Of a client with a certificate, that checks the server's."""
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    return context


async def test_metrics_over_tls_are_for_who_monitors_and_health_is_for_probes(authority: Authority) -> None:
    registry = CollectorRegistry()
    Counter("poi_things", "Things.", registry=registry).inc(3)
    server = telemetry.MetricsServer("127.0.0.1:0", registry, tls=issue(authority, "match"))
    probe = ssl._create_unverified_context()  # as Kubernetes: it shows nothing and checks nothing
    reader, tool = (shows(issue(authority, name)) for name in ("monitoring", "cli"))

    def answers(context: ssl.SSLContext) -> tuple[int, int]:
        return visit(server, "/metrics", context), visit(server, "/health", context)

    assert await asyncio.to_thread(answers, reader) == (200, 200)
    assert await asyncio.to_thread(answers, tool) == (403, 200)
    assert await asyncio.to_thread(answers, probe) == (403, 200)
    with pytest.raises(OSError, match=r"."):
        await asyncio.to_thread(urllib.request.urlopen, f"http://{server.address}/metrics", timeout=60)
    await asyncio.to_thread(server.close)


async def test_the_metrics_port_takes_certificates_that_are_exchanged(authority: Authority) -> None:
    server = telemetry.MetricsServer("127.0.0.1:0", CollectorRegistry(), tls=issue(authority, "match"))
    old = shows(issue(authority, "monitoring"))
    assert await asyncio.to_thread(visit, server, "/metrics", old) == 200

    authority.roll()
    authority.renew(everything=True)
    authority.retire()

    new = shows(issue(authority, "monitoring"))
    assert await asyncio.to_thread(visit, server, "/metrics", new) == 200
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    assert await asyncio.to_thread(visit, server, "/metrics", old) == 0, "a root that nobody trusts any more"
    await asyncio.to_thread(server.close)


async def test_who_says_nothing_keeps_nobody_waiting(authority: Authority) -> None:
    files = issue(authority, "match")
    server = telemetry.MetricsServer("127.0.0.1:0", CollectorRegistry(), tls=files, seconds=600)
    host, port = server.address.split(":")

    with await asyncio.to_thread(socket.create_connection, (host, int(port))):
        assert await asyncio.to_thread(visit, server, "/health", shows(files)) == 200
    await asyncio.to_thread(server.close)


@pytest.mark.parametrize("secured", [False, True])
async def test_who_says_nothing_is_left_in_the_end(authority: Authority, secured: bool) -> None:
    files = issue(authority, "match") if secured else None
    server = telemetry.MetricsServer("127.0.0.1:0", CollectorRegistry(), tls=files, seconds=0.2)
    host, port = server.address.split(":")

    with await asyncio.to_thread(socket.create_connection, (host, int(port)), 60) as silent:
        assert await asyncio.to_thread(silent.recv, 1) == b""
    await asyncio.to_thread(server.close)
