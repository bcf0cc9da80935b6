"""The walls between the rooms: a service knows the contracts and the chassis, never another service."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("embed_svc", "match_svc", "history_svc", "alert_svc", "ingest_svc")
OURS = {*SERVICES, "mesh", "clients", "demo", "bench", "tests"}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", [*SERVICES, "mesh"])
def test_a_room_imports_itself_and_the_chassis_only(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    trespasses = {str(file.relative_to(ROOT)): imported(file) & OURS - {room, "mesh"} for file in files}

    assert files
    assert {file: rooms for file, rooms in trespasses.items() if rooms} == {}


def test_region_is_a_process_of_its_own() -> None:
    region = ROOT / "history_svc" / "region"
    for file in region.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("history_svc"):
                assert node.module.startswith("history_svc.region"), f"{file.relative_to(ROOT)} imports {node.module}"
