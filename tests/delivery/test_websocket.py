"""WebSocket targets, with a real client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import common_pb2, delivery_pb2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from mesh.errors import FailedPrecondition
from mesh.local import Redis
from tests.alert_svc.support import candidate, fails, raise_alerts
from tests.conftest import StartService
from tests.delivery.support import Client, client_of, env, settled

Feed = delivery_pb2.WebSocketTarget
DELIVERED = delivery_pb2.DELIVERY_STATE_DELIVERED


async def receive(connection: ClientConnection) -> Any:
    async with asyncio.timeout(60):
        return json.loads(await connection.recv())


async def events(connection: ClientConnection, count: int) -> list[Any]:
    """The next messages that are no heartbeats."""
    found: list[Any] = []
    while len(found) < count:
        message = await receive(connection)
        if message.get("event") != "ALERT_EVENT_HEARTBEAT":
            found.append(message)
    return found


async def acknowledge(connection: ClientConnection, message: Any) -> None:
    await connection.send(json.dumps({"acknowledge": message["delivery"]}))


async def status_of(url: str, path: bytes) -> bytes:
    """The first line of the answer to a handshake for this path."""
    host, _, port = url.removeprefix("ws://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        headers = b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        writer.write(b"GET " + path + b" HTTP/1.1\r\n" + headers + b"Sec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n")
        await writer.drain()
        return await asyncio.wait_for(reader.readline(), 60)
    finally:
        writer.close()


async def test_clients_follow_live_and_from_their_cursors(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    url = f"{websocket_url}/v1/{target.name}"
    async with connect(url) as one, connect(url) as two:
        for connection in (one, two):
            assert (await receive(connection))["event"] == "ALERT_EVENT_HEARTBEAT"
        names = await client.raise_numbers(range(10))
        seen = await events(one, 10)
        assert await events(two, 10) == seen
    assert [message["alert"]["name"] for message in seen] == names
    names += await client.raise_numbers(range(10, 15))
    async with connect(f"{url}?cursor={seen[6]['cursor']}") as again:
        assert [message["alert"]["name"] for message in await events(again, 8)] == names[7:]


async def test_a_client_that_acknowledges_takes_the_deliveries(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    url = f"{websocket_url}/v1/{target.name}?acknowledge=true"
    names = await client.raise_numbers(range(10))
    async with connect(url) as first:
        for expected in names[:4]:
            (message,) = await events(first, 1)
            assert message["alert"]["name"] == expected
            await acknowledge(first, message)
        (unacknowledged,) = await events(first, 1)
    await settled(client, 4, DELIVERED)
    async with connect(url) as second:
        seen = await events(second, 1)  # so it is the one who takes them
        async with connect(url) as waiting:
            await acknowledge(second, seen[0])
            for _ in range(5):
                (message,) = await events(second, 1)
                seen.append(message)
                await acknowledge(second, message)
            await settled(client, 10, DELIVERED)
            assert seen[0] == unacknowledged
            assert [message["alert"]["name"] for message in seen] == names[4:]
            await second.close()
            names += await client.raise_numbers(range(10, 11))
            (message,) = await events(waiting, 1)
            assert message["alert"]["name"] == names[-1], "who waited takes over"


async def test_a_client_that_says_brackets_only_goes_on(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    (name,) = await client.raise_numbers(range(1))
    async with connect(f"{websocket_url}/v1/{target.name}?acknowledge=true") as connection:
        (message,) = await events(connection, 1)
        for said in ("[" * 4096, "\ud800".encode(errors="surrogatepass"), "{}", "[1]", '{"acknowledge": [[]]}'):
            await connection.send(said)
        await acknowledge(connection, message)
        await settled(client, 1, DELIVERED)
    assert message["alert"]["name"] == name


async def test_a_test_message_reaches_who_is_connected(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    assert (await client.test()).error == "no client is connected to this server"
    async with connect(f"{websocket_url}/v1/{target.name}") as connection:
        assert (await receive(connection))["event"] == "ALERT_EVENT_HEARTBEAT"
        assert (await client.test()).delivered
        (message,) = await events(connection, 1)
        assert message["test"] is True


async def test_a_change_of_the_target_sends_its_clients_away(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    url = f"{websocket_url}/v1/{target.name}"
    async with connect(url) as connection:
        assert (await receive(connection))["event"] == "ALERT_EVENT_HEARTBEAT"
        target.filter.min_severity = common_pb2.SEVERITY_HIGH
        mask = FieldMask(paths=["filter"])
        await client.delivery.UpdateTarget(delivery_pb2.UpdateTargetRequest(target=target, update_mask=mask))
        with pytest.raises(ConnectionClosed) as closed:
            await events(connection, 1)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    async with connect(url) as connection:
        assert (await receive(connection))["event"] == "ALERT_EVENT_HEARTBEAT"
        low, high = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_HIGH
        raised = await raise_alerts(
            client.alerts,
            client.store,
            candidate(client.store, "low", severity=low),
            candidate(client.store, "high", severity=high),
        )
        (message,) = await events(connection, 1)
        assert message["alert"]["name"] == raised.alerts[1].alert


async def test_who_may_not_connect_is_told(client: Client, websocket_url: str) -> None:
    target = await client.create(websocket=Feed())
    hook = await client.create("log", log=delivery_pb2.LogTarget())
    url = f"{websocket_url}/v1/{target.name}"
    for path in (b"//[", b"/v1/\xff"):  # no client of ours says this
        assert (await status_of(websocket_url, path)).startswith(b"HTTP/1.1 404")
    for wrong in (url + "x", f"{websocket_url}/v1/{hook.name}", websocket_url + "/"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(wrong)
        assert refused.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=Origin("https://evil.example"))
    assert refused.value.response.status_code == 403
    async with connect(url, origin=Origin("https://console.example")):
        pass
    for cursor, code in (("nonsense", 4400), ("99999999999999999999999-0", 4400)):
        async with connect(f"{url}?cursor={cursor}") as connection:
            with pytest.raises(ConnectionClosed) as closed:
                await events(connection, 1)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code


async def test_without_a_port_there_are_no_websocket_targets(
    own_redis: Redis, service: StartService, store: str
) -> None:
    server = service("alert_svc", env(own_redis))
    async with client_of(server.target, store) as other:
        error = await fails(other.create(websocket=Feed()))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "WEBSOCKET_OFF"
