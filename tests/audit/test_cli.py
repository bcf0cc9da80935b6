"""`poi audit`, against a mesh that audits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from clients.cli.__main__ import app
from mesh.local import Mesh


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Mesh]:
    """The registry, and who looks at it."""
    with Mesh(tmp_path, services=["match", "audit"], env={"POI_DRAIN_SECONDS": "0"}) as mesh:
        yield mesh


def poi(mesh: Mesh, *arguments: str, status: int = 0) -> str:
    targets = {"POI_MATCH_TARGET": mesh.target("match"), "POI_AUDIT_TARGET": mesh.target("audit")}
    done = CliRunner().invoke(app, list(arguments), env={**targets, "LOGNAME": "ada"}, prog_name="poi")
    assert done.exit_code == status, done.output
    return done.stdout


def test_who_did_what_and_why_is_listed_exported_and_verified(running: Mesh, tmp_path: Path) -> None:
    poi(running, "--purpose", "Prüfung 100 %", "list")
    listed = json.loads(poi(running, "audit", "list", "--json", "--action", "ListPois"))
    (record,) = listed["auditRecords"]
    assert (record["actor"]["name"], record["purpose"], record["code"]) == ("ada", "Prüfung 100 %", "OK")
    assert "PoiService/ListPois" in poi(running, "audit", "list")

    out = tmp_path / "audit.jsonl"
    poi(running, "--purpose", "yearly audit", "audit", "export", "-o", str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["auditRecord"]["sequence"] for line in lines] == [str(number + 1) for number in range(len(lines))]

    said = poi(running, "audit", "verify")
    known = re.search(r"--known (\d+:[0-9a-f]{64})", said)
    assert said.startswith("sound")
    assert known is not None
    assert "sound" in poi(running, "audit", "verify", "--known", known[1])

    with redis.Redis.from_url(running.redis_url) as client:
        client.xdel("poi:{store-1}:audit", "2-0")
    said = poi(running, "audit", "verify", status=1)
    assert said.startswith("GAP 2: 1 record(s) are missing")
