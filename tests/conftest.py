"""Fixtures for all rooms: a real Redis, a real broker, services as processes, the shared data."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
import redis
from hypothesis import HealthCheck, settings

from mesh import channels
from mesh.local import USUAL, Broker, Mesh, Program, Redis, Service, ports
from mesh.local import free_port as a_free_port
from tests.support import PATIENCE

_ROOT = Path(__file__).resolve().parents[1]
_programs = pytest.StashKey[list[Program]]()
_AT_ONCE = {"POI_DRAIN_SECONDS": "0"}
"""No balancer looks elsewhere: hundreds of servers are stopped, and each would wait for that."""

# Tests run side by side: no worker draws a port that another one was given and does not listen at yet.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ports._PORTS = ports._PORTS[_worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]

# On a machine with other work a call may take longer than a store would bear. Tests of deadlines bring their own.
assert channels.connect.__kwdefaults__
channels.connect.__kwdefaults__["default_timeout"] = PATIENCE

# Nor is an example wrong that took 200 ms there.
settings.register_profile("patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


class StartService(Protocol):
    """Starts `python -m module` and waits until it serves; it is stopped at the end of the test."""

    def __call__(self, module: str, env: Mapping[str, str] | None = None, *, name: str | None = None) -> Service: ...


class StartMesh(Protocol):
    """Starts a mesh with a Redis and, unless given one, a broker of its own; it is stopped at the end of the test."""

    def __call__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        services: Iterable[str] = USUAL,
        mqtt_url: str | None = None,
    ) -> Mesh: ...


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The shared data: models, clips, the recorded store."""
    path = Path(os.environ.get("POI_SHARED") or _ROOT.parent / "shared")
    if not (path / "recordings").is_dir():
        pytest.skip(f"shared data absent: no recordings in {path} (set POI_SHARED)")
    return path


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The models: POI_MODELS_DIR, else those of the shared data, else those of `make models`."""
    shared = Path(os.environ.get("POI_SHARED") or _ROOT.parent / "shared")
    given = os.environ.get("POI_MODELS_DIR")
    for path in [Path(given)] if given else [shared / "models", _ROOT / "models"]:
        if (path / "face-reidentification-retail-0095").is_dir():
            return path
    pytest.skip("shared data absent: no models (set POI_MODELS_DIR, or run `make models`)")


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 that nobody uses."""
    return a_free_port()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for all tests; one that a test kills it starts itself."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """Address of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def broker(tmp_path: Path, started: Callable[[Program], None]) -> Broker:
    """A broker without any session or retained message, which the test may kill."""
    server = Broker(tmp_path / "broker")
    started(server)
    return server


@pytest.fixture
def mqtt_url(broker: Broker) -> str:
    """Address of that broker."""
    return broker.url


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[Callable[[Program], None]]:
    """Starts a program, stops it at the end of the test, and shows its log where the test fails."""
    programs: list[Program] = request.node.stash.setdefault(_programs, [])
    with ExitStack() as undo:

        def start(program: Program) -> None:
            programs.append(program)
            undo.callback(program.stop)
            program.start()

        yield start


@pytest.fixture
def service(tmp_path: Path, started: Callable[[Program], None]) -> StartService:
    """A factory of running services; several of one module need names of their own."""

    def start(module: str, env: Mapping[str, str] | None = None, *, name: str | None = None) -> Service:
        server = Service(module, tmp_path / "services", {**_AT_ONCE, **(env or {})}, name=name)
        started(server)
        return server

    return start


@pytest.fixture
def mesh(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartMesh]:
    """A factory of running meshes."""
    programs: list[Program] = request.node.stash.setdefault(_programs, [])
    with ExitStack() as undo:

        def start(
            env: Mapping[str, str] | None = None,
            *,
            services: Iterable[str] = USUAL,
            mqtt_url: str | None = None,
        ) -> Mesh:
            whole = Mesh(tmp_path / "mesh", env={**_AT_ONCE, **(env or {})}, services=services, mqtt_url=mqtt_url)
            programs.extend(whole.programs)
            return undo.enter_context(whole)

        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the logs of a failed test's programs to its report."""
    report = yield
    if report.failed:
        for program in item.stash.get(_programs, []):
            report.sections.append((f"log of {program.name}", program.log_tail(60)))
    return report
