from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from mesh.local import Redis, Service, free_port
from tests.delivery.receiver import Receiver, receiving
from tests.delivery.support import Client, client_of, env


@pytest.fixture(scope="module")
def websocket_url() -> str:
    return f"ws://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def alert_server(
    redis_server: Redis, tmp_path_factory: pytest.TempPathFactory, websocket_url: str
) -> Iterator[Service]:
    """A server for tests that harm nobody; each has a store of its own."""
    settings = env(
        redis_server,
        POI_ALERT_WEBSOCKET_LISTEN=websocket_url.removeprefix("ws://"),
        POI_ALERT_WEBSOCKET_ORIGINS='["https://console.example"]',
    )
    with Service("alert_svc", tmp_path_factory.mktemp("alert"), settings) as running:
        yield running


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis without `alert_server`, which would take over the targets of a test's own servers."""
    with Redis(tmp_path_factory.mktemp("own-redis")) as redis:
        yield redis


@pytest.fixture
def store() -> str:
    """A store that nobody else has used."""
    return f"stores/t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(alert_server: Service, store: str) -> AsyncIterator[Client]:
    async with client_of(alert_server.target, store) as made:
        yield made
        await made.delete_all()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(Receiver()) as running:
        yield running
