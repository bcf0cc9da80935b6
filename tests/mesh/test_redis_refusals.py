"""A Redis that answers and takes no writes: what its clients' clients are told, and that it passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis.exceptions

from mesh import local
from mesh.errors import Unavailable
from mesh.interceptors.errors import translate
from mesh.redis import Redis, connect
from tests.support.redis import KINDS, RedisOfKind

Refusal = Callable[[Redis], Awaitable[Any]]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Redis]:
    with RedisOfKind(tmp_path_factory.mktemp("redis"), request.param, appendfsync="everysec") as running:
        yield running


@pytest.fixture
async def client(server: local.Redis) -> AsyncIterator[Redis]:
    async with connect(server.url) as one:
        yield one
        await one.config_set("maxmemory", 0)
        await one.config_set("min-replicas-to-write", 0)
        await one.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


async def is_full(client: Redis) -> None:
    await client.config_set("maxmemory", 1)


async def lacks_replicas(client: Redis) -> None:
    await client.config_set("min-replicas-to-write", 1)


async def became_a_replica(client: Redis) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]


async def command(client: Redis) -> None:
    await client.set("key", "value")


async def script(client: Redis) -> None:
    await client.eval("return redis.call('SET', KEYS[1], 'value')", 1, "key")


async def pipeline(client: Redis) -> None:
    async with client.pipeline(transaction=False) as pipe:
        pipe.set("key", "value")
        await pipe.execute()


async def transaction(client: Redis) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("key", "value")
        await pipe.execute()


@pytest.mark.parametrize("write", [command, script, pipeline, transaction])
@pytest.mark.parametrize("why", [is_full, lacks_replicas, became_a_replica])
async def test_a_redis_that_takes_no_writes_is_unavailable(client: Redis, why: Refusal, write: Refusal) -> None:
    await why(client)
    with pytest.raises(redis.exceptions.ResponseError) as refused:
        await write(client)

    told = translate(refused.value)

    assert isinstance(told, Unavailable), refused.value
    assert (told.reason, told.retry_after) == ("STATE_UNAVAILABLE", 1.0)


async def test_what_redis_says_of_a_wrong_command_is_a_fault_of_ours(client: Redis) -> None:
    await client.set("text", "OOM READONLY")
    with pytest.raises(redis.exceptions.ResponseError) as refused:
        await client.lpush("text", "BUSY ")

    assert translate(refused.value) is None
