"""`poi approvals`, against servers that wait for a second person."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from clients.cli.__main__ import app
from mesh.local import Mesh
from tests.vault.conftest import Keys


def poi(mesh: Mesh, user: str, *arguments: str, status: int = 0) -> str:
    """What a command of this user prints: stdout, or stderr where it fails."""
    targets = {"POI_MATCH_TARGET": mesh.target("match"), "POI_AUDIT_TARGET": mesh.target("audit")}
    done = CliRunner().invoke(app, list(arguments), env={**targets, "LOGNAME": user}, prog_name="poi")
    assert done.exit_code == status, done.output
    return done.stderr if status else done.stdout


def test_a_removal_waits_until_somebody_else_approves_it_and_so_does_the_end_of_that(
    tmp_path: Path, keys: Keys, redis_url: str
) -> None:
    keys.run("init", "--store", "store-1")
    environment = {**keys.environment, "POI_APPROVALS_REDIS_URL": redis_url, "POI_DRAIN_SECONDS": "0"}
    with Mesh(tmp_path / "mesh", redis_url=redis_url, services=["match", "audit"], env=environment) as mesh:
        assert "erasure: needs nobody else" in poi(mesh, "ada", "approvals", "settings")
        assert "erasure: needs a second person" in poi(mesh, "ada", "approvals", "settings", "--erasure")

        said = poi(mesh, "ada", "delete", "p1", status=1)
        found = re.search(r"approvals/([0-9a-f]{32})", said)
        assert found is not None, said
        assert "PENDING" in poi(mesh, "bob", "approvals", "list")
        assert "SAME_PERSON" in poi(mesh, "ada", "approvals", "approve", found[1], status=1)
        assert "APPROVED" in poi(mesh, "bob", "approvals", "approve", found[1])

        said = poi(mesh, "ada", "delete", "p1", status=1)
        assert "RESOURCE_NOT_FOUND" in said, "it got through, and there is nobody of that name"
        assert "ApprovalService/Approve" in poi(mesh, "eve", "audit", "list")

        said = poi(mesh, "ada", "approvals", "settings", "--no-erasure", status=1)
        found = re.search(r"approvals/([0-9a-f]{32})", said)
        assert found is not None, said
        assert "APPROVED" in poi(mesh, "bob", "approvals", "approve", found[1])
        assert "erasure: needs nobody else" in poi(mesh, "ada", "approvals", "settings", "--no-erasure")
