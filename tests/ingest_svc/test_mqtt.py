"""The MQTT connection, against a real broker that is killed."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from clients.replay import Publisher
from ingest_svc.mqtt import Mqtt, Token
from mesh.local import Broker

TOPIC = "scenescape/data/camera/Camera_01"


class Inbox:
    """Messages as they came, with what acknowledges them."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, Token]] = []
        self._changed = asyncio.Event()

    def take(self, topic: str, payload: bytes, token: Token) -> None:
        assert topic == TOPIC
        self.messages.append((payload, token))
        self._changed.set()

    async def wait_for(self, number: int) -> list[bytes]:
        async with asyncio.timeout(60):
            while len(self.messages) < number:
                self._changed.clear()
                await self._changed.wait()
        return [payload for payload, _ in self.messages]


@contextlib.asynccontextmanager
async def connected(url: str, inbox: Inbox, *, receive_maximum: int = 100) -> AsyncIterator[Mqtt]:
    mqtt = Mqtt(
        url,
        client_id="test",
        subscriptions=[(TOPIC, 1)],
        on_message=inbox.take,
        session_expiry_seconds=600,
        receive_maximum=receive_maximum,
    )
    running = asyncio.create_task(mqtt.run())
    try:
        async with asyncio.timeout(60):
            await mqtt.wait_connected()
        yield mqtt
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def publish(url: str, *payloads: bytes) -> None:
    publisher = Publisher(url)
    publisher.connect()
    for payload in payloads:
        publisher.publish(TOPIC, payload)
    publisher.flush(60)
    publisher.close()


async def test_messages_come_and_what_is_not_acknowledged_comes_again(broker: Broker) -> None:
    first = Inbox()
    async with connected(broker.url, first, receive_maximum=3) as mqtt:
        await asyncio.to_thread(publish, broker.url, b"1", b"2", b"3", b"4")
        assert await first.wait_for(3) == [b"1", b"2", b"3"]
        mqtt.acknowledge(first.messages[0][1])
        assert mqtt.protocol == "MQTT 5"
        await first.wait_for(4)  # so the broker has heard of it

    second = Inbox()
    async with connected(broker.url, second):
        assert await second.wait_for(3) == [b"2", b"3", b"4"], "the persistent session has the others"


async def test_messages_sent_while_away_are_kept(broker: Broker) -> None:
    async with connected(broker.url, Inbox()):
        pass
    await asyncio.to_thread(publish, broker.url, b"meanwhile")

    inbox = Inbox()
    async with connected(broker.url, inbox):
        assert await inbox.wait_for(1) == [b"meanwhile"]


async def test_the_broker_sends_no_more_than_the_receive_maximum_ahead(broker: Broker) -> None:
    inbox = Inbox()
    async with connected(broker.url, inbox, receive_maximum=5) as mqtt:
        await asyncio.to_thread(publish, broker.url, *(b"%d" % number for number in range(12)))
        await inbox.wait_for(5)
        await asyncio.sleep(0.3)
        assert len(inbox.messages) == 5

        for number in range(7):
            mqtt.acknowledge(inbox.messages[number][1])
            await inbox.wait_for(min(6 + number, 12))
        assert [payload for payload, _ in inbox.messages] == [b"%d" % number for number in range(12)]


async def test_reading_can_be_paused(broker: Broker) -> None:
    inbox = Inbox()
    async with connected(broker.url, inbox) as mqtt:
        mqtt.pause()
        await asyncio.to_thread(publish, broker.url, b"1")
        await asyncio.sleep(0.3)
        assert inbox.messages == []

        mqtt.resume()
        assert await inbox.wait_for(1) == [b"1"]


async def test_a_killed_broker_is_found_again_and_old_tokens_acknowledge_nothing(broker: Broker) -> None:
    inbox = Inbox()
    async with connected(broker.url, inbox) as mqtt:
        await asyncio.to_thread(publish, broker.url, b"before")
        await inbox.wait_for(1)
        await asyncio.to_thread(broker.save)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)

        await inbox.wait_for(2)
        old, new = inbox.messages[0][1], inbox.messages[1][1]
        assert inbox.messages[1][0] == b"before"
        assert new.generation > old.generation
        mqtt.acknowledge(old)
        await asyncio.sleep(0.2)

    again = Inbox()
    async with connected(broker.url, again):
        assert await again.wait_for(1) == [b"before"], "the old connection's token must not have acknowledged it"


async def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(tmp_path: Path) -> None:
    with Broker(tmp_path / "amqtt", program="amqtt") as broker:
        inbox = Inbox()
        async with connected(broker.url, inbox) as mqtt:
            await asyncio.to_thread(publish, broker.url, b"1", b"2")
            assert await inbox.wait_for(2) == [b"1", b"2"]
            assert mqtt.protocol == "MQTT 3.1.1"
            for _, token in inbox.messages:
                mqtt.acknowledge(token)


async def test_a_broker_that_is_not_there_is_waited_for(free_port: int) -> None:
    mqtt = Mqtt(
        f"mqtt://127.0.0.1:{free_port}",
        client_id="test",
        subscriptions=[],
        on_message=lambda *_: None,
        session_expiry_seconds=0,
        receive_maximum=10,
    )
    running = asyncio.create_task(mqtt.run())
    await asyncio.sleep(0.5)

    assert not running.done()
    assert not mqtt.connected
    assert not mqtt.publish("topic", b"")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Resetting:
    """A broker that resets its first connection right after a message, while nobody reads; it accepts another."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self.go, self.gone, self.again = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        first, _ = self._server.accept()
        first.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what waits to be sent is not, after a reset
        first.recv(1000)
        first.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK
        subscribe = first.recv(1000)
        first.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x01")  # SUBACK
        assert self.go.wait(60)
        topic = TOPIC.encode()
        message = struct.pack(">H", len(topic)) + topic + b"\x00" + b"last"
        first.sendall(b"\x30" + bytes([len(message)]) + message)  # PUBLISH, QoS 0
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        self.gone.set()
        self._server.accept()[0].close()
        self.again.set()

    def close(self) -> None:
        self._thread.join()
        self._server.close()


def test_a_connection_that_is_reset_while_something_is_to_be_read_is_given_up_at_once() -> None:
    """uvloop, which servers run on, calls once and never again: it seemed connected for a minute, and acknowledged
    into nothing."""
    broker, inbox = Resetting(), Inbox()

    async def meet() -> float:
        async with connected(broker.url, inbox):
            broker.go.set()
            assert broker.gone.wait(60)  # in the event loop's thread: nothing is read meanwhile
            threading.Event().wait(0.1)
            began = time.monotonic()
            assert await asyncio.to_thread(broker.again.wait, 120)
            return time.monotonic() - began

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(meet())
    broker.close()
    assert [payload for payload, _ in inbox.messages] == [b"last"]
    assert took < 25, "the keepalive takes twice as long"


async def test_subscriptions_that_the_broker_refuses_are_no_connection_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingest_svc.mqtt._RESUBSCRIBE_SECONDS", 0.05)
    asked, granted = asyncio.Queue[bytes](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def packet() -> tuple[int, bytes]:
            kind, length = await reader.readexactly(2)
            return kind, await reader.readexactly(length)

        await packet()
        writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                kind, content = await packet()
                if kind == 0x82:  # SUBSCRIBE
                    asked.put_nowait(content)
                    code = b"\x01" if granted.is_set() else b"\x87"  # not authorized
                    writer.write(b"\x90\x04" + content[:2] + b"\x00" + code)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    mqtt = Mqtt(
        f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        client_id="test",
        subscriptions=[(TOPIC, 1)],
        on_message=Inbox().take,
        session_expiry_seconds=600,
        receive_maximum=100,
    )
    running = asyncio.create_task(mqtt.run())
    try:
        async with asyncio.timeout(60):
            for _ in range(2):
                await asked.get()
                assert not mqtt.connected
            granted.set()
            await mqtt.wait_connected()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.close()
