"""The `poi` command outside a mesh with everything on: a token and the authority's certificate are all it has."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.__main__ import app
from mesh.auth import Role
from mesh.local import Mesh
from mesh.pki import Authority
from tests.support import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would not wait as long as a busy machine may take."""
    monkeypatch.setattr("clients.cli.session._ANSWER_SECONDS", PATIENCE)
    monkeypatch.setattr("clients.cli.operations._HEALTH_SECONDS", 8.0)  # some servers do not run here


def poi(mesh: Mesh, role: Role, *arguments: object, **env: str) -> Result:
    said = {**mesh.outside_env(role, subject="kim"), **env}
    return CliRunner().invoke(app, [str(each) for each in arguments], env=said, prog_name="poi")


def test_a_token_is_enough_at_the_gateway(secure: Mesh) -> None:
    answer = poi(secure, Role.OPERATOR, "alerts", "--json")
    assert (answer.exit_code, answer.stdout) == (0, "{}\n"), answer.stderr
    states = json.loads(poi(secure, Role.OPERATOR, "status", "--json").stdout)
    assert (states["match"]["status"], states["alert"]["status"]) == ("SERVING", "SERVING")


def test_an_address_alone_means_tls_where_there_is_a_token(secure: Mesh) -> None:
    assert secure.gateway is not None
    answer = poi(secure, Role.OPERATOR, "alerts", "--json", POI_GATEWAY=secure.gateway.gateway)
    assert (answer.exit_code, answer.stdout) == (0, "{}\n"), answer.stderr


def test_records_stream_through_the_gateway_and_say_who_asked(secure: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    answer = poi(secure, Role.AUDITOR, "--purpose", "case 7", "audit", "export", "--out", file)
    assert answer.exit_code == 0, answer.stderr
    records = [json.loads(line)["auditRecord"] for line in file.read_text().splitlines()]
    assert any(
        each.get("actor", {}).get("name") == "kim"
        and each["action"].endswith("AuditService/ExportAudit")
        and each.get("purpose") == "case 7"
        for each in records
    )


def test_a_role_may_no_more_than_beside_the_servers(secure: Mesh) -> None:
    answer = poi(secure, Role.OPERATOR, "targets", "list")
    assert (answer.exit_code, answer.stderr) == (1, "poi: you may not do this (ROLE_MISSING)\n")


def test_nobody_is_asked_who_has_no_token(secure: Mesh) -> None:
    answer = poi(secure, Role.OPERATOR, "alerts", POI_TOKEN="")
    assert (answer.exit_code, answer.stderr) == (1, "poi: Jwt is missing (UNAUTHENTICATED)\n")


def test_a_gateway_of_another_authority_hears_nothing(
    secure: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.cli.session._ANSWER_SECONDS", 2.0)
    other = Authority(tmp_path / "pki")
    other.create("elsewhere")
    roots = other.issue("cli", "store-1", timedelta(days=1)).files.ca
    answer = poi(secure, Role.OPERATOR, "alerts", POI_TLS_CA=str(roots))
    assert answer.exit_code == 1
    assert answer.stderr.startswith("poi: the gateway does not answer at https://")


def test_a_token_is_not_sent_in_the_clear(secure: Mesh) -> None:
    assert secure.gateway is not None
    answer = poi(secure, Role.OPERATOR, "alerts", POI_GATEWAY=f"http://{secure.gateway.gateway}")
    assert answer.exit_code == 1
    assert answer.stderr.startswith("poi: a token is sent over TLS only")


def test_roots_that_are_none_are_said(secure: Mesh, tmp_path: Path) -> None:
    roots = tmp_path / "ca.crt"
    assert "ca.crt: No such file" in poi(secure, Role.OPERATOR, "alerts", POI_TLS_CA=str(roots)).stderr
    roots.write_text("no certificate")
    assert f"poi: {roots}: " in poi(secure, Role.OPERATOR, "alerts", POI_TLS_CA=str(roots)).stderr
