"""The MQTT connection, against a real broker that is killed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

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
