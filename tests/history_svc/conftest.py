"""A running HistoryService."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh.local import Service
from tests.conftest import StartService
from tests.history_svc.client import Client
from tests.history_svc.neighbours import Neighbours, neighbours

StartHistory = Callable[..., Service]
QDRANT = os.environ.get("POI_TEST_QDRANT_URL", "")
"""A real server, which must be empty; a stand-in otherwise."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `both_stores` run with the history in files, and in Qdrant."""
    if "kept_in" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_stores"):
        metafunc.parametrize("kept_in", ["files", "qdrant"], indirect=True)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Where the server keeps its data."""
    return tmp_path / "data"


@pytest.fixture
def qdrant_url() -> Iterator[str]:
    """An empty Qdrant."""
    if QDRANT:
        with _emptied(QDRANT):
            yield QDRANT
    else:
        # Its libraries take a second to import: for the tests that need it.
        from tests.history_svc.qdrant_grpc import QdrantServer

        server = QdrantServer()
        yield server.url
        server.close()


@pytest.fixture
def kept_in(request: pytest.FixtureRequest, data_dir: Path) -> Mapping[str, str]:
    """Settings of where the history is: in files, unless the test asks for another store (see above)."""
    if getattr(request, "param", "files") == "files":
        return {}
    url = request.getfixturevalue("qdrant_url")
    return {"POI_HISTORY_QDRANT_URL": url, "POI_HISTORY_FRAMES_URL": f"file://{data_dir}/frames"}


@pytest.fixture
def start(service: StartService, data_dir: Path, free_port: int, kept_in: Mapping[str, str]) -> StartHistory:
    """Starts the server on `data_dir`, with settings; the services it asks are not there unless given."""

    def start_history(env: Mapping[str, str] | None = None, name: str = "history") -> Service:
        nobody = f"127.0.0.1:{free_port}"
        return service(
            "history_svc",
            {
                "POI_HISTORY_DATA_DIR": str(data_dir),
                "POI_EMBED_TARGET": nobody,
                "POI_MATCH_TARGET": nobody,
                "POI_REGION_TARGET": nobody,
                "POI_HISTORY_REGION_TIMEOUT": "0.05",
                "POI_HISTORY_DRAIN_SECONDS": "0",
                **kept_in,
                **(env or {}),
            },
            name=name,
        )

    return start_history


@pytest.fixture
def server(start: StartHistory) -> Service:
    """A server with the default settings."""
    return start()


@pytest.fixture
async def client(server: Service) -> AsyncIterator[Client]:
    """A client of that server."""
    async with Client(server.target) as one:
        yield one


@pytest.fixture
async def others() -> AsyncIterator[Neighbours]:
    """The services that history asks."""
    async with neighbours() as servicer:
        yield servicer


@pytest.fixture
async def wired(start: StartHistory, others: Neighbours) -> AsyncIterator[Client]:
    """A client of a history whose neighbours answer."""
    names = ("POI_EMBED_TARGET", "POI_MATCH_TARGET", "POI_REGION_TARGET")
    server = start({**dict.fromkeys(names, others.target), "POI_HISTORY_REGION_TIMEOUT": "30"})
    async with Client(server.target) as client:
        yield client


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server for tests that change nothing in it."""
    home = tmp_path_factory.mktemp("history")
    with Service("history_svc", home, {"POI_HISTORY_DATA_DIR": str(home / "data")}) as one:
        yield one


@pytest.fixture
async def any_client(lasting: Service) -> AsyncIterator[Client]:
    """A client of that server."""
    async with Client(lasting.target) as one:
        yield one


@contextmanager
def _emptied(url: str) -> Iterator[None]:
    """Removes what a test made, and refuses a server that has somebody's history."""
    from history_svc.qdrant.collections import connect

    client = connect(url)
    if any(one.name.startswith("poi-") for one in client.get_collections().collections):
        pytest.fail("POI_TEST_QDRANT_URL names a server with a history in it; give an empty one")
    try:
        yield
    finally:
        for one in client.get_collections().collections:
            if one.name.startswith("poi-"):
                client.delete_collection(one.name)
        client.close()
