"""Redis and the broker, started with the very configuration that is deployed, keep what they promise."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import redis
import yaml
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mesh.local import Program, free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = DEPLOY / "k8s" / "base"
SECONDS = 60.0


@pytest.fixture
def secrets() -> dict[str, dict[str, str]]:
    """What deploy/credentials.py makes up, by Secret."""
    spec = importlib.util.spec_from_file_location("credentials", DEPLOY / "credentials.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = json.loads(json.dumps(module.credentials()))
    return {item["metadata"]["name"]: item["stringData"] for item in made["items"]}


class Broker(Program):
    """mosquitto with the deployed configuration, its paths and its port moved."""

    def __init__(self, folder: Path, passwords: str) -> None:
        super().__init__("mosquitto", folder / "data")
        self.port = free_port()
        config = (BASE / "mosquitto.conf").read_text()
        moved = {
            "listener 1883": f"listener {self.port} 127.0.0.1",
            "/data/": f"{self.data_dir}/",
            "/credentials/passwords": str(folder / "passwords"),
            "/config/mosquitto.acl": str(BASE / "mosquitto.acl"),
        }
        for deployed, here in moved.items():
            assert deployed in config
            config = config.replace(deployed, here)
        if os.geteuid() == 0:
            config += "user root\n"  # else it would give up root for a user who cannot read the test's directory
        (folder / "passwords").write_text(passwords)
        (folder / "passwords").chmod(0o600)
        self.autosave_interval = int(config.partition("autosave_interval ")[2].split()[0])
        self._config = folder / "mosquitto.conf"
        self._config.write_text(config)

    def _command(self) -> Sequence[str]:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert program is not None, "mosquitto is not installed"
        return [program, "-c", str(self._config)]

    def _is_ready(self) -> bool:
        probe = Connection(self, "camera", "wrong")
        try:
            return probe.open()
        except ConnectionRefusedError:
            return False
        finally:
            probe.close()


class Connection:
    """One MQTT 5 client with queues for what it hears."""

    def __init__(self, broker: Broker, user: str | None, password: str = "", *, name: str = "") -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        if user is not None:
            self._client.username_pw_set(user, password)
        self._port = broker.port
        self.answers: queue.Queue[ReasonCode] = queue.Queue()
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._events: queue.Queue[object] = queue.Queue()
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.on_subscribe = lambda client, data, mid, codes, properties: self._events.put(codes)
        self._client.on_publish = lambda client, data, mid, code, properties: self.answers.put(code)

    def _connected(
        self, client: Client, data: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.answers.put(code)

    def _message(self, client: Client, data: object, message: MQTTMessage) -> None:
        self.messages.put((message.topic, bytes(message.payload)))

    def open(self) -> bool:
        """Connects; whether the broker answered at all."""
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=session)
        self._client.loop_start()
        self.code = self.answers.get(timeout=SECONDS)
        return True

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        self._events.get(timeout=SECONDS)

    def publish(self, topic: str, payload: bytes = b"x") -> ReasonCode:
        """Publishes at QoS 1; the broker's answer."""
        self._client.publish(topic, payload, qos=1)
        return self.answers.get(timeout=SECONDS)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path, secrets: dict[str, dict[str, str]]) -> Iterator[Broker]:
    with Broker(tmp_path, secrets["broker"]["passwords"]) as running:
        yield running


@pytest.fixture
def passwords(secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """User of the broker -> password."""
    ingest = secrets["broker"]["url"].removeprefix("mqtt://ingest:").partition("@")[0]
    return {"ingest": ingest, "camera": secrets["broker"]["camera-password"]}


def test_strangers_are_refused(broker: Broker, passwords: dict[str, str]) -> None:
    for user, password in ((None, ""), ("camera", "wrong"), ("camera", passwords["ingest"]), ("root", "")):
        stranger = Connection(broker, user, password)
        stranger.open()
        stranger.close()

        assert stranger.code.getName() == "Not authorized", user


@pytest.mark.parametrize("subscription", ["scenescape/data/camera/+", "$share/store/scenescape/data/camera/+"])
def test_ingest_hears_cameras_and_cameras_hear_what_they_are_asked(
    broker: Broker, passwords: dict[str, str], subscription: str
) -> None:
    ingest, camera, other = (
        Connection(broker, user, passwords[user], name=name)
        for user, name in (("ingest", "poi-ingest"), ("camera", "camera-1"), ("camera", "camera-2"))
    )
    for connection in (ingest, camera, other):
        connection.open()
        assert connection.code.is_failure is False
    ingest.subscribe(subscription)
    camera.subscribe("scenescape/cmd/camera/+")
    other.subscribe("scenescape/data/#")

    camera.publish("scenescape/data/camera/camera-1", b"seen")
    ingest.publish("scenescape/cmd/camera/camera-1", b"getimage")

    assert ingest.messages.get(timeout=SECONDS) == ("scenescape/data/camera/camera-1", b"seen")
    assert camera.messages.get(timeout=SECONDS) == ("scenescape/cmd/camera/camera-1", b"getimage")
    # Its turn has come by now: the broker answered both publishers after it had looked at every subscriber.
    assert other.messages.empty(), "one camera overhears another"
    assert camera.publish("poi-mesh/dead-letter/x").getName() == "Not authorized"
    assert ingest.publish("scenescape/data/camera/camera-1").getName() == "Not authorized"
    assert ingest.publish("poi-mesh/dead-letter/x").is_failure is False
    for connection in (ingest, camera, other):
        connection.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_comes_back_with_what_it_accepted(broker: Broker, passwords: dict[str, str], end: str) -> None:
    topic = "scenescape/data/camera/camera-1"
    sent = [(topic, str(number).encode()) for number in range(250)]
    ingest = Connection(broker, "ingest", passwords["ingest"], name="poi-ingest")
    ingest.open()
    ingest.subscribe("scenescape/data/#")
    ingest.close()
    camera = Connection(broker, "camera", passwords["camera"], name="camera-1")
    camera.open()
    for _, payload in sent:
        assert camera.publish(topic, payload).is_failure is False

    broker.kill() if end == "kill" else broker.stop()
    camera.close()
    broker.start()

    camera = Connection(broker, "camera", passwords["camera"], name="camera-1")
    camera.open()
    camera.publish(topic, b"last")
    ingest = Connection(broker, "ingest", passwords["ingest"], name="poi-ingest")
    ingest.open()
    heard = list(iter(lambda: ingest.messages.get(timeout=SECONDS), (topic, b"last")))
    for connection in (camera, ingest):
        connection.close()
    assert heard == sent[: len(heard)]
    may_be_lost = broker.autosave_interval if end == "kill" else 0
    assert len(heard) >= len(sent) - may_be_lost


class Redis(Program):
    """Redis started by the deployed command with the deployed configuration, its paths and its port moved."""

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__("redis", folder / "data")
        self.port = free_port()
        self.password = password
        (workload, *_) = yaml.safe_load_all((BASE / "redis.yaml").read_text())
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        config = (BASE / "redis.conf").read_text()
        config = config.replace("port 6379", f"port {self.port}").replace("dir /data", f"dir {self.data_dir}")
        (folder / "config").mkdir()
        (folder / "config" / "redis.conf").write_text(config.replace("bind * -::*", "bind 127.0.0.1"))
        (folder / "run").mkdir()
        script = container["args"][0].replace("/config/", f"{folder}/config/").replace("/run/redis/", f"{folder}/run/")
        self._line = [*container["command"], script]

    def _command(self) -> Sequence[str]:
        return self._line

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "REDISCLI_AUTH": self.password}

    def _is_ready(self) -> bool:
        try:
            with redis.Redis(port=self.port, password=self.password) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False


def test_a_killed_redis_comes_back_with_what_it_acknowledged(
    tmp_path: Path, secrets: dict[str, dict[str, str]]
) -> None:
    assert secrets["redis"]["url"] == f"redis://:{secrets['redis']['password']}@redis:6379/0"
    with Redis(tmp_path, secrets["redis"]["password"]) as running:
        with redis.Redis(port=running.port, password=running.password) as client:
            for number in range(200):
                client.set(f"poi:test:{number}", number)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
        running.kill()
        running.start()
        with redis.Redis(port=running.port, password=running.password) as client:
            assert [client.get(f"poi:test:{number}") for number in range(200)] == [b"%d" % n for n in range(200)]
        with redis.Redis(port=running.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("poi:test:1")


def test_credentials_differ_every_time() -> None:
    program = [sys.executable, str(DEPLOY / "credentials.py")]
    first, second = (subprocess.run(program, check=True, capture_output=True, text=True).stdout for _ in range(2))

    assert first != second
