from collections.abc import AsyncIterator

import pytest

from mesh import redis as connections
from mesh.redis import Redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis."""
    client = connections.connect(redis_url)
    yield client
    await client.aclose()
