"""`poi approvals`, against servers that wait for a second person."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mesh.local import Mesh
from tests.vault.conftest import Keys

_ROOT = Path(__file__).resolve().parents[2]


def poi(mesh: Mesh, user: str, *arguments: str, status: int = 0) -> str:
    """What a command of this user prints: stdout, or stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "gen")]),
            "POI_MATCH_TARGET": mesh.target("match"),
            "POI_AUDIT_TARGET": mesh.target("audit"),
            "LOGNAME": user,
        },
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_a_removal_waits_until_somebody_else_approves_it(tmp_path: Path, keys: Keys, redis_url: str) -> None:
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
