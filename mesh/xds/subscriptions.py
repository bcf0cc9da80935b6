"""What one client asked for, has, and refused: the two variants of the xDS protocol, without any gRPC.

A subscription is of one type on one stream. `heard` takes a request, `due` makes the response that is due, if any.
Each response has a nonce that the client's next request carries: it accepts (ACK) or refuses (NACK) by it, and a
request with an older nonce crossed a newer response and is not answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.envoy.service.discovery.v3 import Resource as DeltaResource

from mesh.xds.snapshot import CLUSTER, LISTENER, Typed, version_of

Request = TypeVar("Request", DiscoveryRequest, DeltaDiscoveryRequest)
Response = TypeVar("Response", DiscoveryResponse, DeltaDiscoveryResponse)

WILDCARD = "*"
_WITH_WILDCARD = frozenset({CLUSTER, LISTENER})
"""Types of which a client gets everything when it names nothing."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client refused what it was sent, and stays with what it had."""

    version: str
    detail: str


class Subscription(ABC, Generic[Request, Response]):
    """One type of resource on one stream."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.refused: Refusal | None = None
        """Why the latest response was refused; None where it was not."""
        self._nonce = 0
        self._sent_version = ""

    def heard(self, request: Request) -> Refusal | None:
        """Take a request in; a Refusal when it is one."""
        news = None
        current = request.response_nonce == str(self._nonce) and self._nonce > 0
        if current and request.error_detail is not None:
            news = self.refused = Refusal(self._sent_version, request.error_detail.message)
        elif current:
            self.refused = None
        if not request.response_nonce or current or self._counts_when_crossed:
            self._subscribe(request)
        return news

    @property
    @abstractmethod
    def _counts_when_crossed(self) -> bool:
        """Whether the names in a request count whose nonce is not the latest."""

    @abstractmethod
    def _subscribe(self, request: Request) -> None:
        """Take in which resources the client wants."""

    @abstractmethod
    def due(self, resources: Typed) -> Response | None:
        """The response that brings the client up to `resources`; None when it is."""

    @abstractmethod
    def again(self) -> None:
        """Send everything once more, also where it did not change."""

    def _next_nonce(self) -> str:
        self._nonce += 1
        return str(self._nonce)


class StateOfTheWorld(Subscription[DiscoveryRequest, DiscoveryResponse]):
    """Each response holds everything that the client asked for; a request names everything it wants."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._names: frozenset[str] = frozenset()
        self._ever_named = False
        self._due = False

    @property
    def _counts_when_crossed(self) -> bool:
        return False  # the client repeats its names when it acknowledges the newer response

    def _subscribe(self, request: DiscoveryRequest) -> None:
        names = frozenset(request.resource_names)
        self._ever_named = self._ever_named or bool(names)
        if not self._ever_named and self.type_url in _WITH_WILDCARD:
            names = frozenset({WILDCARD})
        if names - self._names:
            self._due = True  # also when nothing is there: a client waits for the answer
        self._names = names

    def due(self, resources: Typed) -> DiscoveryResponse | None:
        if not self._names:
            return None
        everything = WILDCARD in self._names
        wanted = [resource for name, resource in resources.items() if everything or name in self._names]
        version = version_of(wanted)
        if version == self._sent_version and not self._due:
            return None
        self._due, self._sent_version = False, version
        return DiscoveryResponse(
            version_info=version,
            resources=[resource.packed for resource in wanted],
            type_url=self.type_url,
            nonce=self._next_nonce(),
        )

    def again(self) -> None:
        self._due = bool(self._names)


class Delta(Subscription[DeltaDiscoveryRequest, DeltaDiscoveryResponse]):
    """A response holds what changed; a request says which names come and go."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._names: set[str] = set()
        self._has: dict[str, str] = {}
        self._asked: set[str] = set()
        self._first = True

    @property
    def _counts_when_crossed(self) -> bool:
        return True  # names are said once

    def _subscribe(self, request: DeltaDiscoveryRequest) -> None:
        added: Collection[str] = request.resource_names_subscribe
        if self._first:
            self._first = False
            self._has.update(request.initial_resource_versions)
            if not added and self.type_url in _WITH_WILDCARD:
                added = [WILDCARD]
        self._names.update(added)
        self._asked.update(name for name in added if name != WILDCARD)
        for name in request.resource_names_unsubscribe:
            self._names.discard(name)
            self._asked.discard(name)
            if WILDCARD not in self._names:
                self._has.pop(name, None)
        if WILDCARD in request.resource_names_unsubscribe:
            self._has = {name: version for name, version in self._has.items() if name in self._names}

    def due(self, resources: Typed) -> DeltaDiscoveryResponse | None:
        everything = WILDCARD in self._names
        wanted = {name: item for name, item in resources.items() if everything or name in self._names}
        changed = [item for name, item in wanted.items() if self._has.get(name) != item.version or name in self._asked]
        gone = [name for name in {*self._has, *self._asked} if name not in wanted]
        if not changed and not gone:
            return None
        self._asked.clear()
        self._has = {name: item.version for name, item in wanted.items()}
        self._sent_version = version_of(wanted.values())
        return DeltaDiscoveryResponse(
            system_version_info=self._sent_version,
            resources=[DeltaResource(name=item.name, version=item.version, resource=item.packed) for item in changed],
            removed_resources=sorted(gone),
            type_url=self.type_url,
            nonce=self._next_nonce(),
        )

    def again(self) -> None:
        self._asked.update(self._has)


AnySubscription: TypeAlias = StateOfTheWorld | Delta
