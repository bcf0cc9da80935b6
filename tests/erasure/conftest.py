"""A mesh without cameras' models: people are vectors, which a test words itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from mesh.local import MODULES, Mesh
from tests.e2e.floor import Floor, floor
from tests.e2e.store import Store
from tests.erasure.support import Eraser, erasing

STORE = "store-1"
ENV = {
    "POI_STORE": STORE,
    "POI_HEARTBEAT_SECONDS": "0.4",
    "POI_INGEST_EVIDENCE": "false",
    "POI_ALERT_EVIDENCE": "false",
    "POI_ALERT_DELIVERY_ALLOW_NETWORKS": '["127.0.0.0/8"]',
    "POI_ALERT_DELIVERY_BACKOFF_SECONDS": "0.05",
    "POI_ALERT_DELIVERY_MAX_BACKOFF_SECONDS": "0.2",
    "POI_ALERT_DELIVERY_BREAKER_SECONDS": "0.3",
    "POI_AUDIT_ERASURE_FIND_SECONDS": "5",
    "POI_AUDIT_ERASURE_RETRY_SECONDS": "0.5",
    "POI_DRAIN_SECONDS": "0",
}


class Scene:
    """A running mesh, people in front of its cameras, and the eraser."""

    def __init__(self, mesh: Mesh, here: Floor, eraser: Eraser) -> None:
        self.mesh, self.here, self.eraser = mesh, here, eraser


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The running mesh."""
    services = [name for name in MODULES if name != "embed"]
    with Mesh(tmp_path_factory.mktemp("erasure"), env=ENV, services=services) as mesh:
        yield mesh


@pytest.fixture
async def scene(running: Mesh) -> AsyncIterator[Scene]:
    """All of it running, whatever the test before did."""
    for program in running.programs:
        if not program.running:
            await asyncio.to_thread(program.start)
    async with scene_of(running) as made:
        yield made


@asynccontextmanager
async def scene_of(mesh: Mesh) -> AsyncIterator[Scene]:
    """A scene of a mesh."""
    nothing = cast("Any", None)  # nothing is played
    store = Store(mesh, STORE, nothing, nothing, (), {})
    async with floor(store) as here, erasing(mesh.target("audit"), STORE) as eraser:
        yield Scene(mesh, here, eraser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the mesh's logs to the report of a failed test."""
    report = yield
    mesh = getattr(item, "funcargs", {}).get("running")
    if report.failed and isinstance(mesh, Mesh):
        for program in mesh.programs:
            report.sections.append((f"log of {program.name}", program.log_tail(40)))
    return report
