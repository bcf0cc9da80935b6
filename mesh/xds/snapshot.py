"""Resources by name, versioned by content; and the board where the latest ones hang."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import betterproto2
from envoy_data_plane.google.protobuf import Any

_PREFIX = "type.googleapis.com/envoy.config."
CLUSTER = f"{_PREFIX}cluster.v3.Cluster"
ENDPOINTS = f"{_PREFIX}endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{_PREFIX}listener.v3.Listener"
ROUTES = f"{_PREFIX}route.v3.RouteConfiguration"
EXTENSION = f"{_PREFIX}core.v3.TypedExtensionConfig"

ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION)
"""Make before break: nobody hears of a route to a cluster that was not announced."""
SHORT = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS", EXTENSION: "ECDS"}
"""Type URL -> what people call it."""
ASKED_AGAIN: Mapping[str, str] = MappingProxyType({CLUSTER: ENDPOINTS, LISTENER: ROUTES})
"""Who was sent a changed key waits for the value once more before using it, also where that did not change."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource, ready to be sent."""

    name: str
    version: str
    packed: Any


Typed = Mapping[str, Resource]
"""The resources of one type by name."""


class Snapshot:
    """All resources for one kind of client, immutable."""

    def __init__(self, resources: Mapping[str, Typed]) -> None:
        self._resources = resources

    @classmethod
    def of(cls, messages: Iterable[tuple[str, betterproto2.Message]]) -> Snapshot:
        """Of (name, message) pairs. Raises ValueError for a second message of a name and type."""
        found: dict[str, dict[str, Resource]] = {kind: {} for kind in ORDER}
        for name, message in messages:
            packed = Any.pack(message)
            typed = found[packed.type_url]
            if name in typed:
                raise ValueError(f"two resources {name!r} of {packed.type_url}")
            typed[name] = Resource(name, hashlib.blake2b(packed.value, digest_size=8).hexdigest(), packed)
        return cls(found)

    def joined(self, other: Snapshot) -> Snapshot:
        """The resources of both, which share none."""
        return Snapshot({kind: {**self.typed(kind), **other.typed(kind)} for kind in ORDER})

    def typed(self, type_url: str) -> Typed:
        """The resources of a type; none of a type that is not served."""
        return self._resources.get(type_url, {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self._resources == other._resources

    __hash__ = None  # type: ignore[assignment]


def version_of(resources: Iterable[Resource]) -> str:
    """The version of several resources together; their order does not matter."""
    names = sorted((resource.name, resource.version) for resource in resources)
    return hashlib.blake2b(repr(names).encode(), digest_size=8).hexdigest()


Snapshots = Mapping[str, Snapshot]
"""A snapshot for each kind of client that can be told something."""


class Board:
    """The latest snapshots, and who wants to know of the next. Nothing before the first `publish`."""

    def __init__(self) -> None:
        self.current: Snapshots | None = None
        """What was published last."""
        self._watchers: set[asyncio.Event] = set()

    def publish(self, snapshots: Snapshots) -> bool:
        """Put up new snapshots; returns whether they differ from those that were there."""
        if snapshots == self.current:
            return False
        self.current = snapshots
        for news in self._watchers:
            news.set()
        return True

    @contextmanager
    def watched(self, news: asyncio.Event) -> Iterator[None]:
        """Set `news` at each change."""
        self._watchers.add(news)
        try:
            yield
        finally:
            self._watchers.discard(news)
