"""Logs and the metrics port."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.error
import urllib.request

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from mesh import telemetry


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
