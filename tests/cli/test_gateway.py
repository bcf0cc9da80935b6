"""The `poi` command from outside the mesh: everything through the gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from clients.cli import alerts, audit, erase, person, targets
from clients.cli.session import Gateway
from mesh.local import Mesh, free_port
from mesh.xds.policy import SERVICES as POLICIES
from mesh.xds.resources import routes
from tests.cli.conftest import Poi
from tests.cli.test_cli import FOLLOWING, ROOT, raise_one
from tests.support import PATIENCE

SERVICES = ("match", "history", "region", "alert", "ingest", "audit")
NOWHERE = {f"POI_{name.upper()}_TARGET": "127.0.0.1:1" for name in ("embed", *SERVICES)}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poi]:
    """The command of somebody who reaches nothing but the gateway."""
    gateway = f"127.0.0.1:{free_port()}"
    with Mesh(tmp_path_factory.mktemp("mesh"), services=SERVICES, gateway=gateway) as mesh:
        poi = Poi(mesh, {**NOWHERE, **mesh.outside_env()})
        over = time.monotonic() + PATIENCE
        while poi("audit", "verify").exit_code or poi("status").stdout.count("SERVING") < 5:
            assert time.monotonic() < over, "the gateway knows nobody"
        yield poi


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("threshold",),
        ("watchlists", "list"),
        ("search", "--appearance", "a1"),
        ("erase", "--poi", "p1", "--yes"),
        ("visits",),
        ("occupancy", "s1"),
        ("alerts",),
        ("shift",),
        ("suggest",),
        ("alert-settings",),
        ("feedback", "list"),
        ("targets", "list"),
        ("cameras",),
        ("rejections",),
        ("audit", "verify"),
        ("person", "list"),
        ("person", "key"),
    ],
    ids=" ".join,
)
def test_commands_of_every_service_go_through_the_gateway(outside: Poi, command: tuple[str, ...]) -> None:
    answer = outside(*command)
    # What is asked about may not be there: the service has said so.
    assert answer.exit_code == 0 or "_NOT_FOUND)" in answer.stderr, answer.output


def test_the_status_of_every_server_is_known_outside(outside: Poi) -> None:
    answer = outside("status", "--json")
    states = json.loads(answer.stdout)
    assert answer.exit_code == 1, "nobody runs embed here"
    assert states.pop("embed")["status"] != "SERVING"
    assert {one["status"] for one in states.values()} == {"SERVING"}
    assert {one["target"] for one in states.values()} == {outside.env["POI_GATEWAY"]}


def test_streams_go_on_when_a_server_behind_the_gateway_is_killed(outside: Poi) -> None:
    raise_one(outside, "s-outside", "before")
    with subprocess.Popen(
        [*FOLLOWING, "--store", "s-outside", "alerts", "--follow", "--json", "--since", "1h"],
        env={**os.environ, **outside.env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:

        def next_appearance() -> str:
            assert following.stdout is not None
            appearance: str = json.loads(following.stdout.readline())["alert"]["appearance"]
            return appearance.rpartition("/")[2]

        try:
            assert next_appearance() == "before"
            server = outside.mesh.services["alert"]
            server.kill()
            server.start()
            raise_one(outside, "s-outside", "after")
            assert next_appearance() == "after"
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE) == 130


@pytest.mark.parametrize(
    ("service", "method", "seconds"),
    [
        ("history", "HistoryService/EraseAppearances", erase._ERASE_SECONDS),
        ("audit", "ErasureService/ErasePerson", person._ERASE_SECONDS),
        ("audit", "AuditService/VerifyChain", audit._SECONDS),
        ("alert", "AlertService/SummarizeAlerts", alerts._SUMMARY_SECONDS),
        ("alert", "FeedbackService/SuggestThreshold", alerts._SUMMARY_SECONDS),
        ("alert", "DeliveryService/TestTarget", targets._TEST_SECONDS),
    ],
)
def test_the_gateway_waits_as_long_as_the_command_does(service: str, method: str, seconds: float) -> None:
    path = f"/poi.v1.{method}"
    first = next(
        each
        for each in routes(POLICIES[service], lambda seconds: {"timeout": timedelta(seconds=seconds)})
        if each.match and (each.match.path == path or (each.match.prefix and path.startswith(each.match.prefix)))
    )
    assert first.route is not None
    assert first.route.timeout is not None
    assert first.route.timeout.total_seconds() >= seconds


def test_records_stream_to_a_file(outside: Poi, tmp_path: Path) -> None:
    outside.output("--store", "s-audit", "list")
    file = tmp_path / "audit.jsonl"
    outside.output("--store", "s-audit", "audit", "export", "--out", file)
    assert any("PoiService/ListPois" in line for line in file.read_text().splitlines())
    outside.fails("audit", "export", "--out", tmp_path / "refused.jsonl", "--by", "x" * 501)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_gateway_that_does_not_answer_is_named(outside: Poi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.cli.session._ANSWER_SECONDS", 0.2)
    assert outside.fails("list", POI_GATEWAY="http://127.0.0.1:1") == (
        "the gateway does not answer at http://127.0.0.1:1 (POI_GATEWAY)"
    )


def test_a_token_never_travels_in_the_clear(outside: Poi) -> None:
    line = outside.fails("list", POI_TOKEN="eyJ")
    assert line.startswith("a token is sent over TLS only")


@pytest.mark.parametrize(
    ("address", "target", "secure"),
    [
        ("https://poi.example.com", "poi.example.com:443", True),
        ("https://poi.example.com:8443/", "poi.example.com:8443", True),
        ("https://[::1]", "[::1]:443", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("127.0.0.1:8080", "127.0.0.1:8080", False),
    ],
)
def test_addresses_of_a_gateway(address: str, target: str, secure: bool) -> None:
    found = Gateway.parse(address, None, token=False)
    assert (found.target, found.secure) == (target, secure)


def test_an_address_that_does_not_say_has_tls_where_it_must() -> None:
    assert Gateway.parse("poi.example.com:443", None, token=True).secure
    assert Gateway.parse("poi.example.com:443", Path("ca.crt"), token=False).secure


@pytest.mark.parametrize("address", ["poi.example.com", "ftp://x:1", "https://", "https://a/b", "http://a:b"])
def test_an_address_that_is_none_is_status_2(outside: Poi, address: str) -> None:
    answer = outside("list", POI_GATEWAY=address)
    assert answer.exit_code == 2
    assert "--gateway" in answer.stderr
