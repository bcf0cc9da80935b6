from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from poi.v1 import alert_pb2_grpc

from mesh import redis
from mesh.local import Redis, Service
from tests.alert_svc.pictures import Scene, Studio, a_scene, studio
from tests.alert_svc.support import connected


@pytest.fixture(scope="module")
def alert_server(redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server for tests that harm nobody; each has a store of its own."""
    # Nobody is slow here, but perhaps the machine.
    env = {"POI_REDIS_URL": redis_server.url, "POI_HEARTBEAT_SECONDS": "0.2", "POI_SLOW_CLIENT_SECONDS": "300"}
    with Service("alert_svc", tmp_path_factory.mktemp("alert"), env) as running:
        yield running


@pytest.fixture
def store() -> str:
    """A store that nobody else has used."""
    return f"stores/t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(alert_server: Service) -> AsyncIterator[alert_pb2_grpc.AlertServiceAsyncStub]:
    async with connected(alert_server.target) as stub:
        yield stub


@pytest.fixture
async def redis_client(redis_server: Redis) -> AsyncIterator[redis.Redis]:
    connection = redis.connect(redis_server.url)
    yield connection
    await connection.aclose()


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """What makes pictures, with a Redis of its own: servers of other tests would make the pictures of this store."""
    directory = tmp_path_factory.mktemp("studio")
    with Redis(directory) as own, studio(own, directory, POI_ALERT_EVIDENCE_WAIT_SECONDS="6") as made:
        yield made


@pytest.fixture
async def on_air(servers: Studio) -> AsyncIterator[Scene]:
    """A client of all that makes pictures."""
    async with a_scene(servers) as made:
        yield made
