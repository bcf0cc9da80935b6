"""Redis and the broker as they are deployed: by the command of their pods, with their configuration, on free ports.

What is mounted in a pod lies in a directory of the test's, and so do the paths in commands and configurations.
"""

from __future__ import annotations

import os
import queue
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from socket import create_connection
from tempfile import mkdtemp
from typing import Any, Final

import redis
import yaml
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mesh.local import Program, free_port
from tests.deploy.test_manifests import BASE, K8S, Resource, container, documents, kustomization, workload

ZERO_TRUST: Final = K8S / "components" / "zero-trust"
SECONDS: Final = 60.0
_MOUNTS: Final = re.compile(r"(?<![\w.-])/(config|tls|credentials|data|run/redis)(?=[/\s]|$)", re.MULTILINE)


def config_map(name: str, *components: Path) -> dict[str, str]:
    """What kustomize puts into a ConfigMap of the base's, with some components: file names and contents."""
    found: dict[str, str] = {}
    for folder in (BASE, *components):
        for generator in kustomization(folder).get("configMapGenerator", []):
            for entry in generator.get("files", []) if generator["name"] == name else []:
                key, _, file = entry.rpartition("=")
                found[key or file] = (folder / file).read_text()
    return found


def patched(name: str, *components: Path) -> dict[str, Any]:
    """The container of Redis or of the broker; what a component says of command, arguments and ports replaces it."""
    found = dict(container(name))
    for folder in components:
        for resource in documents(folder / f"{name}.yaml"):
            if resource["kind"] == "StatefulSet":
                (changes,) = resource["spec"]["template"]["spec"]["containers"]
                found |= {key: changes[key] for key in ("command", "args") if key in changes}
                if "ports" in changes:
                    directive, *found["ports"] = changes["ports"]
                    assert directive == {"$patch": "replace"}
    return found


def in_a_pod(word: str) -> str:
    """What the kubelet makes of a word of a command: $$ is one $, and $(this) stays where no variable is called so."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else found[0], word)


class State(Program):
    """One of the two, with what its pod has mounted below `folder`."""

    def __init__(self, name: str, folder: Path, *components: Path) -> None:
        super().__init__(name, folder / "data")
        self.mounts = {each: folder / each for each in ("config", "tls", "credentials", "data")}
        # A socket's path may have some hundred characters, which a test's directory may have by itself.
        self.mounts["run/redis"] = Path(mkdtemp(prefix="poi-"))
        for path in self.mounts.values():
            path.mkdir(exist_ok=True, parents=True)
        self.container = patched(name, *components)
        spec: Resource = workload(name)["spec"]["template"]["spec"]
        (volume,) = [each["configMap"] for each in spec["volumes"] if each["name"] == "config"]
        content = config_map(name, *components)
        for item in volume.get("items", [{"key": key, "path": key} for key in content]):
            path = self.mounts["config"] / item["path"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.configured(self.here(content[item["key"]])))

    def here(self, text: str) -> str:
        """Deployed paths as they are in this test."""
        return _MOUNTS.sub(lambda found: str(self.mounts[found[1]]), text)

    def configured(self, text: str) -> str:
        """A file of the configuration with the test's ports."""
        return text

    def _command(self) -> Sequence[str]:
        words = [in_a_pod(word) for word in (*self.container["command"], *self.container.get("args", []))]
        return [self.here(word).replace("sleep 30", "sleep 0.1") for word in words]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"}

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        rmtree(self.mounts["run/redis"])


class Redis(State):
    """Needs certificates in `mounts["tls"]` before its start where the component wants them."""

    def __init__(self, folder: Path, password: str, *components: Path) -> None:
        self.port, self.password = free_port(), password
        super().__init__("redis", folder, *components)

    def configured(self, text: str) -> str:
        return text.replace("port 6379", f"port {self.port}").replace("bind * -::*", "bind 127.0.0.1")

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "REDISCLI_AUTH": self.password}

    def _is_ready(self) -> bool:
        path = str(self.mounts["run/redis"] / "redis.sock")
        try:
            with redis.Redis(unix_socket_path=path, password=self.password) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False


class Broker(State):
    """mosquitto; `ports` has the free port for each that is deployed."""

    def __init__(self, folder: Path, passwords: str, *components: Path) -> None:
        self.ports: dict[int, int] = {}
        super().__init__("mosquitto", folder, *components)
        file = self.mounts["credentials"] / "passwords"
        file.write_text(passwords)
        file.chmod(0o600)
        config = self.mounts["config"] / "mosquitto.conf"
        self.autosave_interval = int(config.read_text().partition("autosave_interval ")[2].split()[0])
        if os.geteuid() == 0:
            # Else it would give up root for a user who cannot read the test's directory.
            config.write_text(f"user root\n{config.read_text()}")

    def configured(self, text: str) -> str:
        def moved(found: re.Match[str]) -> str:
            port = self.ports.setdefault(int(found[1]), free_port())
            return f"listener {port} 127.0.0.1"

        return re.sub(r"^listener (\d+)$", moved, text, flags=re.MULTILINE)

    def _is_ready(self) -> bool:
        try:
            for port in self.ports.values():
                create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True


class Connection:
    """One MQTT 5 client with queues for what it hears."""

    def __init__(
        self, port: int, user: str | None, password: str = "", *, name: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        if user is not None:
            self._client.username_pw_set(user, password)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._port = port
        self.answers: queue.Queue[ReasonCode] = queue.Queue()
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.lost: queue.Queue[ReasonCode] = queue.Queue()
        self._events: queue.Queue[Sequence[ReasonCode]] = queue.Queue()
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.on_disconnect = lambda client, data, flags, code, properties: self.lost.put(code)
        self._client.on_subscribe = lambda client, data, mid, codes, properties: self._events.put(codes)
        self._client.on_publish = lambda client, data, mid, code, properties: self.answers.put(code)

    def _connected(
        self, client: Client, data: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.answers.put(code)

    def _message(self, client: Client, data: object, message: MQTTMessage) -> None:
        self.messages.put((message.topic, bytes(message.payload)))

    def _knock(self) -> None:
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=session)

    def open(self) -> ReasonCode:
        """Connects; what the broker answers. Raises OSError where nobody opens or TLS does not come about."""
        self._knock()
        self._client.loop_start()
        self.code = self.answers.get(timeout=SECONDS)
        return self.code

    def turned_away(self) -> bool:
        """Whether the broker ends the connection without an answer."""
        try:
            self._knock()
        except (OSError, ssl.SSLError):
            return True
        self._client.loop_start()
        self.lost.get(timeout=SECONDS)
        self._client.loop_stop()
        return self.answers.empty()

    def subscribe(self, topic: str) -> ReasonCode:
        """Subscribes at QoS 1; the broker's answer."""
        self._client.subscribe(topic, qos=1)
        return self._events.get(timeout=SECONDS)[0]

    def publish(self, topic: str, payload: bytes = b"x") -> ReasonCode:
        """Publishes at QoS 1; the broker's answer."""
        self._client.publish(topic, payload, qos=1)
        return self.answers.get(timeout=SECONDS)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def environment(folder: Path, variable: str) -> str:
    """What a component's patch gives this variable of the servers."""
    found: list[str] = []
    for patch in kustomization(folder)["patches"]:
        content = yaml.safe_load(patch["patch"]) if "patch" in patch else None
        if isinstance(content, dict) and "spec" in content:
            (server,) = content["spec"]["template"]["spec"]["containers"]
            found += [each["value"] for each in server.get("env", []) if each["name"] == variable]
    (value,) = found
    return value
