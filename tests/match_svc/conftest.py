from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh.local import Service
from tests.match_svc.support import Replica
from tests.match_svc.support import replica as a_replica


@pytest.fixture
async def replica(redis_url: str) -> AsyncIterator[Replica]:
    """One replica on an empty registry."""
    async with a_replica(redis_url) as running:
        yield running


@pytest.fixture(scope="session")
def embed_target(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running embedding service."""
    with Service("embed_svc", tmp_path_factory.mktemp("embed"), {"POI_MODELS_DIR": str(models_dir)}) as server:
        yield server.target


@pytest.fixture
async def replica_with_eyes(redis_url: str, embed_target: str) -> AsyncIterator[Replica]:
    """One replica that can look at photos."""
    async with a_replica(redis_url, embed_target=embed_target) as running:
        yield running
