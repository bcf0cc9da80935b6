"""Servers that share a Redis, and what is left when one of them, or Redis, is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import grpc
import pytest
from poi.v1 import alert_pb2

from mesh.errors import Aborted, from_rpc
from mesh.local import Redis, Service
from tests.alert_svc.support import Follower, candidate, connected, raise_alerts, raise_numbers


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis that these tests may kill."""
    with Redis(tmp_path_factory.mktemp("own-redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def servers(own_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    data_dir, env = tmp_path_factory.mktemp("servers"), {"POI_REDIS_URL": own_redis.url}
    one, two = (Service("alert_svc", data_dir, env, name=name) for name in ("one", "two"))
    with ExitStack() as undo:
        for server in (one, two):
            undo.callback(server.stop)
            server.spawn()
        for server in (one, two):
            server.wait_ready()
        yield one, two


@pytest.fixture
def two_servers(own_redis: Redis, servers: tuple[Service, Service]) -> tuple[Service, Service]:
    """Two servers of one Redis, all running, whatever the test before did to them."""
    for program in (own_redis, *servers):
        if not program.running:
            program.start()
    return servers


async def raise_through(failures: int, target: str, store: str, numbers: range) -> list[str]:
    """Raises alerts one by one, each until it is answered, as ingest does; their names."""
    names: list[str] = []
    async with connected(target) as client:
        for number in numbers:
            for _ in range(failures):
                try:
                    response = await raise_alerts(client, store, candidate(store, f"a{number}"))
                except grpc.aio.AioRpcError as error:
                    if not from_rpc(error).retryable:
                        raise
                else:
                    names.append(response.alerts[0].alert)
                    break
    return names


async def test_two_servers_given_the_same_candidates_raise_one_alert_each(
    two_servers: tuple[Service, Service], store: str
) -> None:
    follower = Follower(store, two_servers[0].target)
    reading = asyncio.create_task(follower.run(301))
    await follower.until_live()
    batches = [[candidate(store, f"a{number}") for number in range(start, start + 30)] for start in range(0, 300, 30)]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.target)) for server in two_servers]
        responses = await asyncio.gather(
            *(raise_alerts(client, store, *batch) for batch in batches for client in clients)
        )
        await raise_alerts(clients[0], store, candidate(store, "last"))
    await reading

    raised = [raised for response in responses for raised in response.alerts]
    assert len({each.alert for each in raised}) == 300
    assert sum(each.created for each in raised) == 300
    assert len(set(follower.alerts)) == len(follower.alerts) == 301


async def test_of_many_who_acknowledge_at_once_one_does(two_servers: tuple[Service, Service], store: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.target)) for server in two_servers]
        name = (await raise_alerts(clients[0], store, candidate(store))).alerts[0].alert
        seen = await clients[0].GetAlert(alert_pb2.GetAlertRequest(name=name))

        async def acknowledge(number: int) -> alert_pb2.Alert | None:
            request = alert_pb2.AcknowledgeAlertRequest(name=name, actor=f"actor {number}", etag=seen.etag)
            try:
                return await clients[number % 2].AcknowledgeAlert(request)
            except grpc.aio.AioRpcError as error:
                if not isinstance(from_rpc(error), Aborted):
                    raise
                return None

        answers = await asyncio.gather(*(acknowledge(number) for number in range(30)))
        now = await clients[1].GetAlert(alert_pb2.GetAlertRequest(name=name))
    assert [answer for answer in answers if answer] == [now]


@pytest.mark.parametrize("method", ["Acknowledge", "Confirm", "Reject", "Resolve"])
async def test_of_two_operators_who_saw_the_same_alert_through_two_servers_one_decides(
    two_servers: tuple[Service, Service], store: str, method: str
) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.target)) for server in two_servers]
        for number in range(5):
            name = (await raise_alerts(clients[0], store, candidate(store, f"a{number}"))).alerts[0].alert
            seen = await clients[0].GetAlert(alert_pb2.GetAlertRequest(name=name))
            rivals = [
                getattr(clients[0], f"{method}Alert")(
                    getattr(alert_pb2, f"{method}AlertRequest")(name=name, actor="ann", etag=seen.etag)
                ),
                clients[1].ConfirmAlert(
                    alert_pb2.ConfirmAlertRequest(name=name, actor="bob", note="hers", etag=seen.etag)
                ),
            ]
            answers = await asyncio.gather(*rivals, return_exceptions=True)
            done = [each for each in answers if isinstance(each, alert_pb2.Alert)]
            lost = [from_rpc(each) for each in answers if isinstance(each, grpc.aio.AioRpcError)]
            assert (len(done), len(lost)) == (1, 1)
            # Who is late is told that it has changed, or that there is nothing left to decide.
            assert lost[0].reason in ("ETAG_MISMATCH", "ALERT_RESOLVED", "ILLEGAL_TRANSITION")
            assert await clients[1].GetAlert(alert_pb2.GetAlertRequest(name=name)) == done[0]


async def test_a_client_of_a_killed_server_resumes_where_it_was(
    two_servers: tuple[Service, Service], store: str
) -> None:
    killed, other = two_servers
    followers = [Follower(store, killed.target) for _ in range(5)]
    reading = [asyncio.create_task(follower.run(90)) for follower in followers]
    await asyncio.gather(*(follower.until_live() for follower in followers))
    async with connected(other.target) as client:
        names = await raise_numbers(client, store, range(30))
        await asyncio.to_thread(killed.kill)
        names += await raise_numbers(client, store, range(30, 60))
        await asyncio.to_thread(killed.start)
        names += await raise_numbers(client, store, range(60, 90))
    await asyncio.gather(*reading)
    for follower in followers:
        assert follower.alerts == names
        assert follower.interruptions


async def test_alerts_that_are_sent_again_to_a_killed_server_are_neither_lost_nor_doubled(
    two_servers: tuple[Service, Service], store: str
) -> None:
    killed, other = two_servers
    follower = Follower(store, other.target)
    reading = asyncio.create_task(follower.run(300))
    await follower.until_live()
    raising = asyncio.create_task(raise_through(20, killed.target, store, range(300)))
    await follower.until_seen(50)
    await asyncio.to_thread(killed.restart)
    await follower.until_seen(150)
    await asyncio.to_thread(killed.kill)
    await asyncio.to_thread(killed.start)
    names = await raising
    await reading
    assert len(names) == 300
    assert follower.alerts == names


async def test_redis_killed_and_back_loses_no_alert_and_repeats_none(
    own_redis: Redis, two_servers: tuple[Service, Service], store: str
) -> None:
    followers = [Follower(store, server.target) for server in two_servers]
    reading = [asyncio.create_task(follower.run(300)) for follower in followers]
    await asyncio.gather(*(follower.until_live() for follower in followers))
    raising = asyncio.create_task(raise_through(20, two_servers[0].target, store, range(300)))
    for seen in (50, 150):
        await followers[0].until_seen(seen)
        await asyncio.to_thread(own_redis.kill)
        await asyncio.to_thread(own_redis.start)
    names = await raising
    await asyncio.gather(*reading)
    assert len(names) == 300
    for follower in followers:
        assert follower.alerts == names
    newcomer = Follower(store, two_servers[1].target, cursor="0-0")
    await newcomer.run(300)
    assert newcomer.alerts == names


async def test_alerts_survive_a_restart_of_everything(
    own_redis: Redis, two_servers: tuple[Service, Service], store: str
) -> None:
    server = two_servers[0]
    async with connected(server.target) as client:
        name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
        before = await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann"))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(own_redis.kill)
    await asyncio.to_thread(own_redis.start)
    await asyncio.to_thread(server.start)
    async with connected(server.target) as client:
        assert await client.GetAlert(alert_pb2.GetAlertRequest(name=name)) == before
        assert not (await raise_alerts(client, store, candidate(store))).alerts[0].created
