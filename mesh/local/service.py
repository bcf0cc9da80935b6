"""One server of the mesh as a child process (`python -m match_svc` and so on)."""

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

from pydantic import BaseModel

from mesh.local.ports import free_port
from mesh.local.program import Program
from mesh.settings import TlsFiles

_ROOT = Path(__file__).resolve().parents[2]


class Ready(BaseModel):
    """What a server writes to its ready file once it serves."""

    listen: str
    metrics: str = ""
    pid: int


class Service(Program):
    """A server started by its module's name, with settings from the environment.

    Args:
        module: what `python -m` runs, such as "match_svc" or "history_svc.region".
        data_dir: where its log and its ready file live; not where the server keeps data (that is its own setting).
        env: settings, over those of this process.
        name: of the log file; several replicas of one module need different ones. Default: the service's name.
        port: to listen on, kept over restarts so that others find it again; default: a free one.
        reader: whose certificate reads its metrics, where it has TLS.
    """

    def __init__(
        self,
        module: str,
        data_dir: Path,
        env: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        port: int | None = None,
        reader: TlsFiles | None = None,
        start_timeout: float = 90.0,
        grace: float = 30.0,
    ) -> None:
        service = module.rpartition(".")[2].removesuffix("_svc")
        super().__init__(name or service, data_dir, start_timeout=start_timeout, grace=grace)
        self.module = module
        self.target = f"127.0.0.1:{port or free_port()}"
        """host:port of its gRPC server."""
        self.reader = reader
        self.metrics_url = ""
        """URL of its Prometheus metrics while it runs, "" where it has none."""
        self._ready_file = data_dir / f"{self.name}.ready.json"
        self.env: dict[str, str] = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
            f"POI_{service.upper()}_METRICS_LISTEN": "127.0.0.1:0",
            "GRPC_VERBOSITY": "ERROR",  # gRPC's core writes lines of its own about every lost connection
            **(env or {}),
            f"POI_{service.upper()}_LISTEN": self.target,
            f"POI_{service.upper()}_READY_FILE": str(self._ready_file.resolve()),
        }
        """Its settings; a change takes effect at the next start."""

    def metrics(self) -> str:
        """What Prometheus reads of the running server."""
        context = None
        if self.reader is not None:
            context = ssl.create_default_context(cafile=self.reader.ca)
            context.load_cert_chain(self.reader.certificate, self.reader.key)
        with urlopen(self.metrics_url, timeout=30.0, context=context) as response:
            text: str = response.read().decode()
        return text

    def wait_for_metric(self, name: str, value: float, timeout: float = 60.0) -> None:
        """Waits until a metric of the running server, one without labels, has this value.

        Raises:
            TimeoutError: it has not in that time.
        """

        def reached() -> bool:
            return f"{name} {value}" in self.metrics().splitlines()

        try:
            self._wait_for(reached, timeout)
        except TimeoutError:
            raise TimeoutError(f"{self.name}: {name} is not {value:g} after {timeout:g} s") from None

    def spawn(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        super().spawn()

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", self.module]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.env}

    def _is_ready(self) -> bool:
        try:
            ready = Ready.model_validate_json(self._ready_file.read_bytes())
        except FileNotFoundError:
            return False
        self.target = ready.listen
        scheme = "https" if self.reader else "http"
        self.metrics_url = f"{scheme}://{ready.metrics}/metrics" if ready.metrics else ""
        return True
