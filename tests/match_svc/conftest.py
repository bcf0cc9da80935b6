from collections.abc import AsyncIterator

import pytest

from tests.match_svc.support import Replica
from tests.match_svc.support import replica as a_replica


@pytest.fixture
async def replica(redis_url: str) -> AsyncIterator[Replica]:
    """One replica on an empty registry."""
    async with a_replica(redis_url) as running:
        yield running
