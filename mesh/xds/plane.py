"""From a source to the board: the one loop of the control plane."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace

import structlog

from mesh.xds import gateway, metrics, proxyless
from mesh.xds.ads import ENVOY, GRPC
from mesh.xds.model import Endpoints, Health, Service
from mesh.xds.resources import load_assignment
from mesh.xds.snapshot import Board, Snapshot, Snapshots
from mesh.xds.sources import Source

_log = structlog.get_logger(__name__)


class Builder:
    """Makes snapshots of replicas. All but the replicas is made once: it takes a tenth of a second."""

    def __init__(self, services: Iterable[Service], edge: gateway.Edge) -> None:
        self._services = list(services)
        self._static = {GRPC: Snapshot.of(proxyless.messages(self._services))}
        self.meet(edge)

    def meet(self, edge: gateway.Edge) -> None:
        """From now on the gateway is this one."""
        self._static[ENVOY] = Snapshot.of(gateway.messages(self._services, edge))

    def __call__(self, endpoints: Endpoints) -> Snapshots:
        """What each kind of client is served. A service without replicas is there too: its calls fail, or wait."""
        replicas = Snapshot.of(
            (service.name, load_assignment(service, endpoints.get(service.name, ()))) for service in self._services
        )
        return {kind: static.joined(replicas) for kind, static in self._static.items()}


class Plane:
    """Follows a source."""

    def __init__(self, board: Board, build: Builder, published: Callable[[], None]) -> None:
        """`build` makes snapshots of replicas; `published` is called after each that was put up."""
        self._board, self._build, self._published = board, build, published
        self._last: Endpoints | None = None

    async def follow(self, source: Source) -> None:
        """Publish what the source says for as long as it speaks."""
        async with aclosing(source.watch()) as said:
            async for endpoints in said:
                self._take(endpoints)

    async def exchange_keys(self, edge: gateway.Edge, keys: AsyncGenerator[str, None]) -> None:
        """Have the gateway take the tokens of whichever keys there are."""
        async with aclosing(keys) as said:
            async for jwks in said:
                self._build.meet(replace(edge, jwks=jwks))
                _log.info("gateway_keys_exchanged")
                if self._last is not None:
                    self._take(self._last)

    def _take(self, endpoints: Endpoints) -> None:
        self._last = endpoints
        try:
            made = self._build(endpoints)
        except ValueError:  # what was published before is better than nothing
            metrics.REJECTED.inc()
            _log.exception("configuration_not_built")
            return
        if not self._board.publish(made):
            return
        metrics.CHANGES.inc()
        for service, replicas in endpoints.items():
            counted = Counter(replica.health for replica in replicas)
            for health in Health:
                metrics.ENDPOINTS.labels(service, health.value).set(counted[health])
        _log.info("published", endpoints={name: len(replicas) for name, replicas in sorted(endpoints.items())})
        self._published()
