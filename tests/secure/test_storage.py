"""Redis and the broker of a secured mesh: TLS, and for those alone who may."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from socket import create_connection

import pytest
import redis as clients
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from poi.v1 import delivery_pb2

from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.mqtt import MqttSender
from alert_svc.delivery.sender import Message
from clients.replay import Publisher
from ingest_svc.mqtt import Mqtt, Token
from mesh import brokers
from mesh import redis as connections
from mesh.local import Broker, Redis
from mesh.pki import Authority
from mesh.settings import TlsFiles
from tests.support import PATIENCE

Issue = Callable[[str], TlsFiles]


@pytest.fixture
def issue(tmp_path: Path) -> Issue:
    """Makes identities of one store."""
    authority = Authority(tmp_path / "pki")
    authority.create("poi-mesh")
    return lambda name: authority.issue(name, "store-1", timedelta(hours=1)).files


async def test_redis_over_tls_for_who_has_the_password(issue: Issue, tmp_path: Path) -> None:
    with Redis(tmp_path / "redis", tls=issue("redis")) as server:
        client = connections.connect(server.url)
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        await client.aclose()

        password, _, where = server.url.removeprefix("rediss://:").partition("@")
        with clients.Redis.from_url(f"rediss://{where}") as nobody, pytest.raises(clients.AuthenticationError):
            nobody.get("key")
        address = where.partition("?")[0]
        with clients.Redis.from_url(f"redis://:{password}@{address}") as plain, pytest.raises(clients.ConnectionError):
            plain.get("key")
        stranger = clients.Redis.from_url(f"rediss://:{password}@{address}")  # it trusts the system's authorities
        with stranger, pytest.raises(clients.ConnectionError, match="certificate verify failed"):
            stranger.get("key")


async def test_the_broker_takes_those_it_knows_by_their_certificates(issue: Issue, tmp_path: Path) -> None:
    users = [f"store-1/{name}" for name in ("camera", "ingest", "alert")]
    arrived: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def heard(topic: str, payload: bytes, token: Token) -> None:
        arrived.put_nowait((topic, payload))

    with Broker(tmp_path / "broker", program="mosquitto", tls=issue("broker"), users=users) as broker:
        ingest = Mqtt(
            brokers.with_files(broker.url, issue("ingest")),
            client_id="ingest",
            subscriptions=[("#", 1)],
            on_message=heard,
            session_expiry_seconds=60,
            receive_maximum=10,
        )
        running = asyncio.create_task(ingest.run())
        async with asyncio.timeout(2 * PATIENCE):
            await ingest.wait_connected()

            camera = Publisher(brokers.with_files(broker.url, issue("camera")))
            await asyncio.to_thread(camera.connect)
            camera.publish("scenescape/data/camera/door", b"seen")
            await asyncio.to_thread(camera.flush, PATIENCE)
            assert await arrived.get() == ("scenescape/data/camera/door", b"seen")
            camera.close()

            own = brokers.with_files(broker.url, issue("alert"))
            target = delivery_pb2.MqttTarget(topic="poi-mesh/alerts")
            tls = ssl.create_default_context()
            alert = MqttSender(target, own, Guard(()), tls, timeout=PATIENCE, retention_seconds=60)
            await alert.send(Message.of(delivery_pb2.DeliveryMessage(delivery="d", test=True)))
            assert (await arrived.get())[0] == "poi-mesh/alerts"
            await alert.close()

            url = brokers.with_files(broker.url, issue("cli"))
            assert await asyncio.to_thread(published, url, broker.port) == "Not authorized"
            assert arrived.empty()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        nameless = ssl.create_default_context(cafile=issue("cli").ca)
        with (
            create_connection(("127.0.0.1", broker.port), PATIENCE) as plain,
            nameless.wrap_socket(plain, server_hostname="127.0.0.1") as socket,
            pytest.raises(OSError, match=r"certificate required|reset"),
        ):
            socket.recv(1)


def published(url: str, port: int) -> str:
    """What the broker answers to a message of somebody's."""
    client, answers = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), list[str]()
    client.tls_set_context(brokers.tls_context(url))
    client.on_publish = lambda _c, _u, _mid, reason, _p: answers.append(str(reason))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        client.publish("scenescape/data/camera/door", b"forged", qos=1).wait_for_publish(PATIENCE)
    finally:
        client.disconnect()
        client.loop_stop()
    return answers[0]
