"""What is delivered when servers, Redis or a target are killed or away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from poi.v1 import delivery_pb2

from mesh.local import Redis
from tests.conftest import StartService
from tests.delivery.receiver import SERVER_ERROR, Receiver, receiving
from tests.delivery.support import Client, client_of, env, settled

DELIVERED, DEAD = delivery_pb2.DELIVERY_STATE_DELIVERED, delivery_pb2.DELIVERY_STATE_DEAD
pytestmark = pytest.mark.timeout(300)


async def test_a_server_killed_in_the_middle_delivers_everything_in_order_afterwards(
    own_redis: Redis, service: StartService, store: str, receiver: Receiver
) -> None:
    server = service("alert_svc", env(own_redis))
    receiver.delay = 0.005
    async with client_of(server.target, store) as client:
        await client.webhook(receiver.url)
        names = await client.raise_numbers(range(300))
        for delivered in (50, 150):
            await receiver.until(lambda least=delivered: len(receiver.ids) >= least)  # type: ignore[misc]
            await asyncio.to_thread(server.restart)
        await receiver.until(lambda: len(receiver.ids) == 300)
        await settled(client, 300, DELIVERED)
        assert receiver.alerts == names
        assert len(receiver.accepted) <= 302, "only what was under way at a kill may come twice"
        await client.delete_all()


async def test_two_servers_make_each_delivery_once_and_one_takes_over_from_the_other(
    own_redis: Redis, service: StartService, store: str, receiver: Receiver
) -> None:
    servers = [service("alert_svc", env(own_redis), name=name) for name in ("one", "two")]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server.target, store)) for server in servers]
        await clients[0].webhook(receiver.url)
        names = await clients[0].raise_numbers(range(100))
        await receiver.until(lambda: len(receiver.accepted) == 100)
        assert receiver.alerts == names
        for number, killed in enumerate(servers):
            await asyncio.to_thread(killed.kill)
            other = clients[1 - number]
            names += await other.raise_numbers(range(100 * (number + 1), 100 * (number + 2)))
            raised = len(names)
            await receiver.until(lambda least=raised: len(receiver.ids) == least)  # type: ignore[misc]
            assert receiver.alerts == names
            await asyncio.to_thread(killed.start)
        # Who is killed between a delivery and its record has that one made again, under the same name.
        assert len(receiver.accepted) - len(receiver.ids) <= len(servers)
        await clients[0].delete_all()


async def test_a_target_that_was_down_gets_everything_in_order_afterwards(client: Client, free_port: int) -> None:
    await client.webhook(f"http://127.0.0.1:{free_port}/hook")
    names = await client.raise_numbers(range(300))
    pending = await settled(client, 1, delivery_pb2.DELIVERY_STATE_PENDING)
    assert "cannot connect to 127.0.0.1" in pending[0].last_error
    async with receiving(Receiver(port=free_port)) as receiver:
        await receiver.until(lambda: len(receiver.accepted) == 300)
        assert receiver.alerts == names
        assert len(receiver.posts) == 300


async def test_redis_killed_and_back_loses_no_delivery(
    service: StartService, tmp_path: Path, store: str, receiver: Receiver
) -> None:
    receiver.delay = 0.005
    with Redis(tmp_path / "own-redis") as redis:
        server = service("alert_svc", env(redis))
        async with client_of(server.target, store) as client:
            await client.webhook(receiver.url)
            names = await client.raise_numbers(range(200))
            await receiver.until(lambda: len(receiver.ids) >= 50)
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(redis.start)
            await receiver.until(lambda: len(receiver.ids) == 200)
            assert receiver.alerts == names
            await client.delete_all()


@pytest.fixture
async def impatient(own_redis: Redis, service: StartService, store: str) -> AsyncIterator[Client]:
    """A client of a server that gives up events after five seconds."""
    server = service("alert_svc", env(own_redis, POI_ALERT_DELIVERY_GIVE_UP_HOURS=str(5 / 3600)))
    async with client_of(server.target, store) as client:
        yield client
        await client.delete_all()


async def test_what_a_target_missed_for_too_long_is_dead_until_it_is_replayed(
    impatient: Client, receiver: Receiver
) -> None:
    works = False
    receiver.behave = lambda post: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" if works else SERVER_ERROR
    await impatient.webhook(receiver.url)
    old = await impatient.raise_numbers(range(30))
    dead = await settled(impatient, 30, DEAD)
    assert [delivery.alert for delivery in reversed(dead)] == old
    assert "500" in dead[-1].last_error
    assert len({post.id for post in receiver.posts}) < 10, "what is too old is not tried one by one"

    works = True
    new = await impatient.raise_numbers(range(30, 33))
    await receiver.until(lambda: len(receiver.ids) == 3)
    assert await impatient.replay() == 30
    await receiver.until(lambda: len(receiver.ids) == 33)
    assert receiver.alerts == new + old
    assert (await impatient.get()).status.dead_letter_count == 0


async def test_a_limit_of_attempts_is_kept(
    own_redis: Redis, service: StartService, store: str, receiver: Receiver
) -> None:
    receiver.behave = lambda post: SERVER_ERROR
    server = service("alert_svc", env(own_redis, POI_ALERT_DELIVERY_MAX_ATTEMPTS="2"))
    async with client_of(server.target, store) as client:
        await client.webhook(receiver.url)
        await client.raise_numbers(range(2))
        dead = await settled(client, 2, DEAD)
        await client.delete_all()
    assert [delivery.attempt_count for delivery in dead] == [2, 2]
    assert len(receiver.posts) == 4
