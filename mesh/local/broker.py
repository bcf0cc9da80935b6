"""An MQTT broker of one's own: mosquitto where installed, else amqtt."""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mesh.local.ports import free_port
from mesh.local.program import Program
from mesh.settings import TlsFiles

_MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where distributions put it, often not on a user's PATH


class Broker(Program):
    """An MQTT broker for anyone on this machine.

    mosquitto speaks MQTT 5 and keeps sessions, subscriptions and queued messages on disk (`durable`): it may be killed
    and comes back with them. amqtt is pure Python, speaks MQTT 3.1.1 only and keeps everything in memory.

    Args:
        data_dir: where its configuration, database and log live.
        program: None takes mosquitto where installed.
        autosave_changes: mosquitto rewrites its database after this many changes (messages queued or retained,
            subscriptions), and confirms before, so a SIGKILL loses about that many messages. Every rewrite is synced:
            with 1 this broker carried 74 messages/s, with 10,000 more than 2,000. `save` rewrites at once.
        tls: its certificate, of mosquitto's alone: clients then show theirs.
        users: with `tls`, the names ("store-1/ingest") in certificates of those who may use it; nobody else may.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        name: str = "broker",
        program: Literal["mosquitto", "amqtt"] | None = None,
        autosave_changes: int = 20,
        tls: TlsFiles | None = None,
        users: Sequence[str] = (),
    ) -> None:
        super().__init__(name, data_dir)
        self.port = free_port()
        self._mosquitto = None if program == "amqtt" else _find_mosquitto()
        if program == "mosquitto" and self._mosquitto is None:
            raise FileNotFoundError("mosquitto is not installed (`apt-get install mosquitto`)")
        self._autosave_changes = autosave_changes
        self.tls = tls if self.durable else None
        """Its certificate, where it has one: amqtt speaks without."""
        self._users = users
        self.url = f"{'mqtts' if self.tls else 'mqtt'}://127.0.0.1:{self.port}"
        """Without the files of a client's identity, which `mesh.brokers.with_files` adds."""

    @property
    def durable(self) -> bool:
        """Whether sessions and queued messages survive a SIGKILL; equally, whether MQTT 5 is spoken."""
        return self._mosquitto is not None

    def save(self) -> None:
        """Has a running mosquitto write its database, and waits for it; of amqtt it does nothing.

        What the broker has confirmed before this call survives a SIGKILL after it.

        Raises:
            TimeoutError: no database within 30 s.
        """
        if self.durable:
            before = self._written_at()
            os.kill(self.pid, signal.SIGUSR1)
            self._wait_for(lambda: self._written_at() != before, timeout=30.0)

    def _written_at(self) -> int:
        database = self.data_dir / "mosquitto.db"
        return database.stat().st_mtime_ns if database.exists() else 0

    def _command(self) -> Sequence[str]:
        if self._mosquitto is None:
            config = self.data_dir / "amqtt.yaml"
            config.write_text(json.dumps(self._amqtt_config()))  # JSON is YAML
            return [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        config = self.data_dir / "mosquitto.conf"
        access = "".join(f"user {user}\ntopic readwrite #\n" for user in self._users)
        (self.data_dir / "mosquitto.acl").write_text(access)
        config.write_text("\n".join(self._mosquitto_config()) + "\n")
        return [self._mosquitto, "-c", str(config)]

    def _mosquitto_config(self) -> list[str]:
        lines = [
            f"listener {self.port} 127.0.0.1",
            *self._mosquitto_tls(),
            "persistence true",
            f"persistence_location {self.data_dir.resolve()}/",
            "autosave_on_changes true",
            f"autosave_interval {self._autosave_changes}",
            "max_inflight_messages 0",  # no limit but the one that each client states (receive maximum)
            "max_queued_messages 0",
            "max_queued_bytes 0",
            f"message_size_limit {_MESSAGE_LIMIT_BYTES}",
            "set_tcp_nodelay true",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
        ]
        if os.geteuid() == 0:
            # Started by root it changes to the user "mosquitto", who cannot write to a directory of root's.
            lines.append("user root")
        return lines

    def _mosquitto_tls(self) -> list[str]:
        if self.tls is None:
            return ["allow_anonymous true"]
        return [
            f"cafile {self.tls.ca.resolve()}",
            f"certfile {self.tls.certificate.resolve()}",
            f"keyfile {self.tls.key.resolve()}",
            "require_certificate true",
            "use_identity_as_username true",
            "allow_anonymous false",
            f"acl_file {(self.data_dir / 'mosquitto.acl').resolve()}",
        ]

    def _amqtt_config(self) -> dict[str, object]:
        return {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }

    def _is_ready(self) -> bool:
        # Both restore what they kept before they listen.
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _hint(self) -> str:
        return f"set POI_MQTT_URL to use a broker that already runs; the whole log is in {self.log_path}"


def _find_mosquitto() -> str | None:
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))
