"""A mesh with two servers of every service that may have two, each known to the others by both addresses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.local import MODULES, USUAL, Mesh, Service, free_port

ALONE = "history"
"""Keeps its data in a directory that one process at a time may use."""


@dataclass(frozen=True)
class Replicated:
    """The running mesh and the second servers."""

    mesh: Mesh
    seconds: Mapping[str, Service]

    @property
    def services(self) -> Mapping[str, Service]:
        """The first server of each."""
        return self.mesh.services

    def target(self, service: str) -> str:
        """gRPC target of all servers of a service."""
        return self.mesh.env[f"POI_{service.upper()}_TARGET"]

    def servers(self, service: str) -> list[Service]:
        """Those of one service, one or two."""
        second = self.seconds.get(service)
        return [self.mesh.services[service], *([second] if second else [])]

    @property
    def all_servers(self) -> list[Service]:
        """Every first one, then every second one."""
        return list(itertools.chain(self.mesh.services.values(), self.seconds.values()))


@contextmanager
def replicated(data_dir: Path, env: Mapping[str, str]) -> Iterator[Replicated]:
    """Starts two of everything but `ALONE`, one Redis, and one broker that shares the messages out."""
    first = {name: free_port() for name in USUAL}
    second = {name: free_port() for name in USUAL if name != ALONE}
    both = {
        f"POI_{name.upper()}_TARGET": (
            f"ipv4:127.0.0.1:{port},127.0.0.1:{second[name]}" if name in second else f"127.0.0.1:{port}"
        )
        for name, port in first.items()
    }
    settings = {**both, "POI_INGEST_SHARED_GROUP": "all", **env}
    with ExitStack() as undo:
        mesh = undo.enter_context(Mesh(data_dir, env=settings, ports=first, autosave_changes=10_000))
        seconds: dict[str, Service] = {}
        for name, port in second.items():
            own = {"POI_INGEST_CLIENT_ID": "poi-ingest-2"} if name == "ingest" else {}
            service = Service(MODULES[name], data_dir / f"{name}-2", {**mesh.env, **own}, name=f"{name}-2", port=port)
            undo.callback(service.stop)
            service.spawn()
            seconds[name] = service
        for service in seconds.values():
            service.wait_ready()
        seconds["ingest"].wait_for_metric("poi_ingest_connected", 1.0)
        yield Replicated(mesh, seconds)
