"""Workers and their store, in this process, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network

import pytest
from poi.v1 import delivery_pb2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from alert_svc.alerts import new_alert
from alert_svc.delivery import lease
from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.manager import Manager
from alert_svc.delivery.pace import Limits, Pace
from alert_svc.delivery.sender import Message
from alert_svc.delivery.senders import Senders
from alert_svc.delivery.store import LeaseLost, TargetStore, cursor_of, delivery_id, just_before, owner_key
from alert_svc.delivery.webhook import WebhookSender, tls_context
from alert_svc.delivery.websocket import WebSocketServer
from alert_svc.delivery.worker import Parts, Worker
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh import limits, redis
from mesh.aio import Background
from mesh.local import Redis, free_port
from tests.alert_svc.support import candidate
from tests.delivery.receiver import Receiver
from tests.delivery.support import SECRET
from tests.support import PATIENCE, until


class Recorder:
    """A target in memory."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        self.seen.put_nowait(message.alert.name)

    async def close(self) -> None:
        pass


@pytest.fixture
async def connection(redis_server: Redis) -> AsyncIterator[redis.Redis]:
    client = redis.connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def targets(connection: redis.Redis) -> TargetStore:
    return TargetStore(connection, retention_days=1, keep=10, heartbeat=0.2)


@pytest.fixture
async def target(targets: TargetStore, store: str) -> AsyncIterator[delivery_pb2.Target]:
    made = delivery_pb2.Target(name=f"{store}/targets/t", enabled=True, etag="e", log=delivery_pb2.LogTarget())
    await targets.create(made, "0-0")
    yield made
    with suppress(Exception):
        await targets.delete(made)


async def raise_one(log: AlertLog, store: str, appearance: str) -> str:
    alert = new_alert(candidate(store, appearance), store.removeprefix("stores/"), now(), "candidate")
    await log.raise_all(store.removeprefix("stores/"), [alert])
    return alert.name


async def test_a_target_behind_the_end_of_the_log_goes_on_with_what_is_left(
    connection: redis.Redis, targets: TargetStore, target: delivery_pb2.Target, store: str
) -> None:
    log = AlertLog(connection, retention_days=1, heartbeat=0.2)
    await raise_one(log, store, "gone")
    await asyncio.sleep(0.3)
    impatient = AlertLog(connection, retention_days=0.2 / 86_400, heartbeat=0.2)
    await impatient.sweep()
    left = await raise_one(impatient, store, "left")

    recorder = Recorder()
    running = asyncio.create_task(Worker(target, recorder, Parts(targets, log, Limits(), 1.0)).run())
    try:
        async with asyncio.timeout(60):
            assert await recorder.seen.get() == left
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert recorder.seen.empty()


async def test_a_worker_that_finds_redis_away_goes_on_with_a_sender_that_works(
    connection: redis.Redis,
    targets: TargetStore,
    target: delivery_pb2.Target,
    store: str,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = AlertLog(connection, retention_days=1, heartbeat=0.2)
    name, read, failures = await raise_one(log, store, "a"), targets.get, [ConnectionError("away")]

    async def get(of: str) -> delivery_pb2.Target:
        if failures:
            raise failures.pop()
        return await read(of)

    monkeypatch.setattr(targets, "get", get)
    hook = delivery_pb2.WebhookTarget(url=receiver.url, secret=SECRET)
    sender = WebhookSender(hook, Guard([ip_network("127.0.0.0/8")]), tls_context(None), timeout=30)
    background = Background()
    background.start("deliver", Worker(target, sender, Parts(targets, log, Limits(first_backoff=0.05), 1.0)).run)
    try:
        await receiver.until(lambda: receiver.alerts == [name])
    finally:
        await background.close()


async def test_a_target_that_cannot_be_used_keeps_no_other_from_delivery(
    own_redis: Redis, store: str, receiver: Receiver
) -> None:
    connection = redis.connect(own_redis.url)
    targets = TargetStore(connection, retention_days=1, keep=10, heartbeat=0.2)
    for number, url in enumerate(("http://\u2603.example/", receiver.url)):  # as an earlier release has kept it
        hook = delivery_pb2.WebhookTarget(url=url, secret=SECRET)
        made = delivery_pb2.Target(name=f"{store}/targets/{number}", enabled=True, etag="e", webhook=hook)
        await targets.create(made, "0-0")
    log = AlertLog(connection, retention_days=1, heartbeat=0.2)
    name = await raise_one(log, store, "a")
    senders = Senders(Guard([ip_network("127.0.0.0/8")]), tls_context(None), "mqtt://127.0.0.1", 30, 86_400)
    manager = Manager(Parts(targets, log, Limits(), 1.0), senders, None)
    manager.start()
    try:
        await receiver.until(lambda: receiver.alerts == [name])
    finally:
        await manager.close()
        await connection.aclose()


async def test_who_lost_the_lease_cannot_write(targets: TargetStore, target: delivery_pb2.Target) -> None:
    async with lease.held(targets.redis, owner_key(target.name), 5.0) as token:
        await targets.settle(target.name, token, "5-0")
        with pytest.raises(LeaseLost):
            await targets.settle(target.name, "somebody", "9-0")
    with pytest.raises(LeaseLost):
        await targets.settle(target.name, token, "9-0")
    assert (await targets.progress(target.name)).cursor == "5-0"


async def test_who_loses_the_lease_stops(targets: TargetStore, target: delivery_pb2.Target) -> None:
    async def hold() -> None:
        async with asyncio.timeout(60), lease.held(targets.redis, owner_key(target.name), 0.5):
            await targets.redis.set(owner_key(target.name), "somebody")
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost):
        await hold()
    assert await targets.redis.get(owner_key(target.name)) == b"somebody"


async def test_a_lease_is_given_back_at_once_and_lapses_when_its_owner_dies(
    targets: TargetStore, target: delivery_pb2.Target
) -> None:
    key = owner_key(target.name)
    async with lease.held(targets.redis, key, 30.0):
        assert await targets.redis.pttl(key) > 20_000
    assert await targets.redis.get(key) is None
    await targets.redis.set(key, "dead", px=300)
    async with asyncio.timeout(60), lease.held(targets.redis, key, 1.0) as token:
        assert await targets.redis.get(key) == token.encode()


async def test_only_so_many_deliveries_are_remembered(targets: TargetStore, target: delivery_pb2.Target) -> None:
    milliseconds = now().ToMilliseconds()
    async with lease.held(targets.redis, owner_key(target.name), 5.0) as token:
        for number in range(30):
            cursor = f"{milliseconds}-{number}"
            state = delivery_pb2.DELIVERY_STATE_DEAD if number % 10 == 0 else delivery_pb2.DELIVERY_STATE_DELIVERED
            delivery = delivery_pb2.Delivery(name=f"{target.name}/deliveries/{delivery_id(cursor)}", state=state)
            await targets.settle(target.name, token, cursor, delivery)
    listed = await targets.deliveries(target.name, "", 100)
    sequences = [int(delivery.name.rpartition("-")[2]) for delivery in listed]
    assert sequences == [29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 10, 0]


def test_ids_of_deliveries_sort_and_lead_back() -> None:
    cursors = ["0-0", "9-1", "10-0", "1795225005936-0", "1795225005936-2", "1795225005936-10"]
    assert sorted(map(delivery_id, cursors)) == [delivery_id(cursor) for cursor in cursors]
    assert [cursor_of(delivery_id(cursor)) for cursor in cursors] == cursors
    assert just_before("7-3") == "7-2"
    assert just_before("7-0") == f"6-{(1 << 64) - 1}"


def test_pauses_grow_up_to_the_breakers_and_honour_what_the_target_asks() -> None:
    limits = Limits(first_backoff=1, max_backoff=8, breaker_failures=4, breaker_seconds=30)
    for _ in range(50):
        pace = Pace(limits)
        pauses = [pace.failed() for _ in range(6)]
        assert all(0 <= pause <= 2**number for number, pause in enumerate(pauses[:3]))
        assert all(pause == 30 for pause in pauses[3:])
        assert pace.failed(retry_after=100) == 100
        assert pace.failed(retry_after=1e9) == 3600
        pace.succeeded()
        assert pace.failed() <= 1


@asynccontextmanager
async def a_websocket(
    connection: redis.Redis, targets: TargetStore, store: str
) -> AsyncIterator[tuple[WebSocketServer, delivery_pb2.Target, str]]:
    """A running server, the target that it serves, and where clients connect to it."""
    made = delivery_pb2.Target(
        name=f"{store}/targets/w", enabled=True, etag="e", websocket=delivery_pb2.WebSocketTarget()
    )
    await targets.create(made, "0-0")
    log, listen = AlertLog(connection, retention_days=1, heartbeat=0.2), f"127.0.0.1:{free_port()}"
    server = WebSocketServer(listen, (), targets, Parts(targets, log, Limits(), 1.0))
    await server.start()
    try:
        yield server, made, f"ws://{listen}/v1/{made.name}"
    finally:
        await server.close()


async def test_a_websocket_client_that_came_after_the_targets_were_read_is_not_sent_away(
    connection: redis.Redis, targets: TargetStore, store: str
) -> None:
    async with (
        a_websocket(connection, targets, store) as (server, made, url),
        asyncio.timeout(60),
        connect(url) as client,
    ):
        await client.recv()
        server.refresh({})  # as they were before it was made
        for _ in range(3):
            await client.recv()
        await targets.delete(made)
        server.refresh({})
        await client.wait_closed()
        assert client.close_code == 1012


async def test_one_address_does_not_take_all_websockets(
    connection: redis.Redis, targets: TargetStore, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADDRESS_SHARE", 2)
    async with (
        a_websocket(connection, targets, store) as (_, _, url),
        asyncio.timeout(PATIENCE),
        connect(url) as one,
        connect(url) as two,
    ):
        for client in (one, two):
            await client.recv()
        async with connect(url) as third:
            await third.wait_closed()
        assert (third.close_code, third.close_reason) == (1013, "SHARE_USED_UP")
        await two.close()

        async def admitted() -> bool:
            async with connect(url) as again:
                with suppress(ConnectionClosed):
                    await again.recv()
                    return True
            return False

        await until(admitted, "there is room again")
