"""From a source to the board: the one loop of the control plane."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

import orjson
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
        self.services, self._edge = list(services), edge
        self._static = {
            GRPC: Snapshot.of(proxyless.messages(self.services)),
            ENVOY: Snapshot.of(gateway.messages(self.services, edge)),
        }
        self._jwks: dict[str, str] = {}
        self._tokens: Snapshot | None = None

    def take(self, issuer: str, jwks: str) -> None:
        """From now on the issuer has these keys; "": none are known."""
        self._jwks[issuer] = jwks
        if self._jwks.keys() >= set(self._edge.issuers) and any(self._jwks.values()):
            self._tokens = Snapshot.of(gateway.tokens(self._edge, self._jwks))

    def __call__(self, endpoints: Endpoints) -> Snapshots:
        """What each kind of client is served. A service without replicas is there too: its calls fail, or wait.

        A gateway that asks for tokens is told nothing before there was word of each issuer and keys of one: one that
        is new does not listen yet, one that has keys loses none by our restart while its issuer is away.
        """
        replicas = Snapshot.of(
            (service.name, load_assignment(service, endpoints.get(service.name, ()))) for service in self.services
        )
        made = {GRPC: self._static[GRPC].joined(replicas)}
        if not self._edge.issuers or self._tokens is not None:
            made[ENVOY] = self._static[ENVOY].joined(self._tokens or Snapshot.of(())).joined(replicas)
        return made


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

    async def follow_keys(self, issuer: str, keys: AsyncGenerator[str, None]) -> None:
        """Have the gateway take the issuer's tokens by whichever keys there are."""
        async with aclosing(keys) as said:
            async for jwks in said:
                self._build.take(issuer, jwks)
                number = len(orjson.loads(jwks)["keys"]) if jwks else 0
                metrics.ISSUER_KEYS.labels(issuer).set(number)
                _log.info("gateway_keys", issuer=issuer, keys=number)
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
        for service in self._build.services:  # also of those that a source no longer names: they have none
            counted = Counter(replica.health for replica in endpoints.get(service.name, ()))
            for health in Health:
                metrics.ENDPOINTS.labels(service.name, health.value).set(counted[health])
        _log.info("published", endpoints={name: len(replicas) for name, replicas in sorted(endpoints.items())})
        self._published()
