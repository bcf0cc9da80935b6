"""MQTT targets, against a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from poi.v1 import delivery_pb2

from mesh.local import Broker, Redis
from tests.alert_svc.support import candidate, raise_alerts
from tests.conftest import StartService
from tests.delivery.receiver import Receiver, receiving
from tests.delivery.support import HASTY, Client, client_of, env, settled

DELIVERED, PENDING = delivery_pb2.DELIVERY_STATE_DELIVERED, delivery_pb2.DELIVERY_STATE_PENDING


@asynccontextmanager
async def subscribed(
    broker: Broker, topic: str, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311
) -> AsyncIterator[asyncio.Queue[MQTTMessage]]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[MQTTMessage] = asyncio.Queue()
    ready = asyncio.Event()
    paho = Paho(CallbackAPIVersion.VERSION2, protocol=protocol)

    def connected(*_: Any) -> None:
        paho.subscribe(topic, 1)

    def received(_: Any, __: Any, message: MQTTMessage) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, message)

    def confirmed(*_: Any) -> None:
        loop.call_soon_threadsafe(ready.set)

    paho.on_connect, paho.on_message, paho.on_subscribe = connected, received, confirmed
    await asyncio.to_thread(paho.connect, "127.0.0.1", broker.port)
    paho.loop_start()
    try:
        async with asyncio.timeout(60):
            await ready.wait()
        yield queue
    finally:
        paho.disconnect()
        await asyncio.to_thread(paho.loop_stop)


async def take(queue: asyncio.Queue[MQTTMessage], count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [json.loads((await queue.get()).payload) for _ in range(count)]


@pytest.fixture(params=["mosquitto", "amqtt"])
def either_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with Broker(tmp_path / "broker", program=request.param) as running:
        yield running


async def test_alerts_are_published_in_order(client: Client, either_broker: Broker) -> None:
    await client.create(mqtt=delivery_pb2.MqttTarget(broker_url=either_broker.url, topic="store/alerts"))
    async with subscribed(either_broker, "store/alerts") as queue:
        names = await client.raise_numbers(range(50))
        messages = await take(queue, 50)
    assert [message["alert"]["name"] for message in messages] == names
    assert len({message["delivery"] for message in messages}) == 50
    await settled(client, 50, DELIVERED)


async def test_the_last_state_of_each_person_is_retained(client: Client, broker: Broker) -> None:
    target = delivery_pb2.MqttTarget(broker_url=broker.url, topic="alerts", retain_last_state=True)
    await client.create(mqtt=target)
    raised = await raise_alerts(
        client.alerts,
        client.store,
        *(candidate(client.store, f"a{number}", f"p{number % 2}") for number in range(4)),
    )
    await settled(client, 4, DELIVERED)
    assert (await client.test()).delivered
    async with subscribed(broker, "alerts/pois/+") as queue:  # afterwards: what the broker kept
        kept = await take(queue, 2)
    assert {each["alert"]["name"] for each in kept} == {each.alert for each in raised.alerts[2:]}
    assert queue.empty()


async def test_the_broker_retains_a_state_no_longer_than_the_alert_is_kept(client: Client, broker: Broker) -> None:
    target = delivery_pb2.MqttTarget(broker_url=broker.url, topic="kept", retain_last_state=True)
    await client.create(mqtt=target)
    await client.raise_numbers(range(1))
    await settled(client, 1, DELIVERED)
    async with subscribed(broker, "kept/#", MQTTProtocolVersion.MQTTv5) as queue, asyncio.timeout(60):
        retained = await queue.get()
    assert retained.retain
    properties: Any = retained.properties
    assert 6 * 86_400 < properties.MessageExpiryInterval <= 7 * 86_400


async def test_a_broker_killed_and_back_gets_what_it_missed_in_order(client: Client, broker: Broker) -> None:
    await client.create(mqtt=delivery_pb2.MqttTarget(broker_url=broker.url, topic="alerts"))
    names = await client.raise_numbers(range(5))
    await settled(client, 5, DELIVERED)
    await asyncio.to_thread(broker.kill)
    names = await client.raise_numbers(range(5, 25))
    (pending,) = await settled(client, 1, PENDING)
    assert pending.alert == names[0]
    await asyncio.to_thread(broker.start)
    await settled(client, 25, DELIVERED)
    status = (await client.get()).status
    assert status.state == delivery_pb2.TARGET_STATE_ACTIVE


async def test_a_target_that_names_no_broker_is_at_the_stores_own(
    own_redis: Redis, service: StartService, store: str, broker: Broker
) -> None:
    settings = env(own_redis, POI_MQTT_URL=broker.url, POI_ALERT_DELIVERY_ALLOW_NETWORKS="[]")
    server = service("alert_svc", settings)
    async with client_of(server.target, store) as client, subscribed(broker, "alerts") as queue:
        await client.create(mqtt=delivery_pb2.MqttTarget(topic="alerts"))
        names = await client.raise_numbers(range(3))
        messages = await take(queue, 3)
        await client.delete_all()
    assert [message["alert"]["name"] for message in messages] == names


async def test_a_broker_that_hangs_is_given_up_in_time(own_redis: Redis, service: StartService, store: str) -> None:
    server = service("alert_svc", env(own_redis, **HASTY))
    # It waits for the end of an HTTP request.
    async with receiving(Receiver()) as hung, client_of(server.target, store) as client:
        url = f"mqtt://127.0.0.1:{hung.port}"
        await client.create(mqtt=delivery_pb2.MqttTarget(broker_url=url, topic="alerts"))
        outcome = await client.test()
        await client.delete_all()
    assert not outcome.delivered
    assert "no answer within 0.5 s" in outcome.error or "cannot connect" in outcome.error
