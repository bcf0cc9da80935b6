"""One mesh for all tests of this directory: it is killed, refused and looked at, and must always come back."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from clients.replay import Recording
from clients.replay.evidence import RECORDED_CLIPS, Clip
from demo import material
from mesh.local import Mesh
from tests.e2e.store import STORE, Store, settings
from tests.e2e.story import expect
from tests.support import load_truth


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_dir: Path, models_dir: Path) -> Iterator[Store]:
    """The running mesh."""
    scene, shortfall = material.find(STORE)
    assert not shortfall
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    clips = {camera: Clip(shared_dir / "media" / name) for camera, name in RECORDED_CLIPS.items()}
    with Mesh(tmp_path_factory.mktemp("e2e"), env=settings(models_dir)) as mesh:
        expected = expect(recording, load_truth(shared_dir))
        store = Store(mesh, STORE, recording, expected, scene.people, clips)
        asyncio.run(store.enrol())
        yield store


@pytest.fixture
async def store(whole: Store) -> Store:
    """The mesh, all of it running and both enrolled, whatever the test before did to it."""
    for program in whole.mesh.programs:
        if not program.running:
            await asyncio.to_thread(program.start)
    await whole.enrol()
    return whole


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the mesh's logs to the report of a failed test."""
    report = yield
    whole = getattr(item, "funcargs", {}).get("whole")
    if report.failed and isinstance(whole, Store):
        for program in whole.mesh.programs:
            report.sections.append((f"log of {program.name}", program.log_tail(60)))
    return report
