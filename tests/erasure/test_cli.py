"""`poi person`: the plan, the erasure, its receipt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clients.cli.__main__ import app
from tests.erasure.conftest import Scene
from tests.support import similar, unit

pytestmark = pytest.mark.timeout(120)


async def test_a_person_is_planned_erased_and_the_receipt_verified(scene: Scene, tmp_path: Path) -> None:
    async def poi(*arguments: str) -> Result:
        env = scene.mesh.client_env()
        return await asyncio.to_thread(CliRunner().invoke, app, ["--store", "store-1", *arguments], env=env)

    await scene.here.enrol("dora", unit(4000))
    await scene.here.shows("cli", 1, [similar(unit(4000), 0.9, 4001 + each) for each in range(4)], at=0)
    await scene.here.used()
    receipt, key = tmp_path / "receipt.json", tmp_path / "key.pem"

    planned = await poi("person", "plan", "--poi", "dora")
    assert planned.exit_code == 0, planned.output
    assert "appearances" in planned.output
    assert "audit records" in planned.output
    token = planned.output.split()[-1]
    assert (await poi("person", "erase", "--poi", "dora", "--plan", "0" * 32, "--yes")).exit_code == 1
    erased = await poi("person", "erase", "--poi", "dora", "--plan", token, "--yes", "-o", str(receipt))
    assert erased.exit_code == 0, erased.output
    assert "DONE" in erased.output
    name = erased.output.split()[0]
    listed = await poi("person", "list")
    assert name in listed.output
    assert name in (await poi("person", "receipt", name)).output
    key.write_text((await poi("person", "key")).output)
    again = tmp_path / "again.json"
    assert name in (await poi("person", "receipt", name, "--json", "-o", str(again))).output
    assert again.read_bytes() == receipt.read_bytes()

    genuine = await poi("person", "verify", str(receipt), "--key", str(key))
    assert genuine.exit_code == 0
    assert genuine.output.startswith("genuine")
    receipt.write_bytes(receipt.read_bytes().replace(b'"count": 1', b'"count": 2', 1))
    forged = await poi("person", "verify", str(receipt), "--key", str(key))
    assert forged.exit_code == 1
    assert "not what was signed" in forged.stderr
    assert (await poi("person", "plan", "--poi", "dora")).exit_code == 1, "there is nothing of her"
    assert (await poi("person", "plan")).exit_code == 2
