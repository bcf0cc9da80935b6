"""What the control plane knows: services with their policy, and where their replicas are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeAlias

from mesh.settings import split_host_port


class Balance(StrEnum):
    """How calls are spread over replicas."""

    LEAST_REQUEST = "least_request"
    """To the replica with fewer open calls, of two; gRPC clients, which cannot, go round."""
    RING_HASH = "ring_hash"
    """Calls with the same key to the same replica, while it is there; a call without key to any."""


@dataclass(frozen=True, slots=True)
class Balancing:
    """How calls are spread, and for RING_HASH by which request header (gRPC metadata)."""

    kind: Balance = Balance.LEAST_REQUEST
    header: str = ""

    def __post_init__(self) -> None:
        if (self.kind is Balance.RING_HASH) != bool(self.header):
            raise ValueError("a ring hash, and nothing else, needs a header")


@dataclass(frozen=True, slots=True)
class Retries:
    """Repeats of a call that failed before anything was answered. Writes bear it: they carry request or content ids."""

    attempts: int = 3
    """Repeats after the first attempt, each on another replica while there is one."""
    base_seconds: float = 0.025
    max_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class Breakers:
    """What one client may have open at a time towards a service; more is refused with UNAVAILABLE."""

    connections: int = 1024
    requests: int = 1024
    """Open calls, streams included."""
    pending: int = 1024
    """Calls that wait for a connection."""
    retries: int = 200
    """Repeats at a time: with Envoy's default of 3, a replica that is killed under load costs calls."""


@dataclass(frozen=True, slots=True)
class Outliers:
    """When a replica gets no calls for a while because too many failed on it."""

    consecutive: int = 5
    """Failures in a row (Envoy)."""
    failure_percent: int = 60
    """Failures of at least `volume` calls in `interval_seconds` (gRPC clients, who do not count rows)."""
    volume: int = 20
    interval_seconds: float = 1.0
    ejection_seconds: float = 5.0
    max_percent: int = 50
    """Of the replicas; the rest stay, whatever they answer."""


@dataclass(frozen=True, slots=True)
class Checks:
    """grpc.health.v1 of each replica, asked by Envoy."""

    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0
    unhealthy: int = 2
    healthy: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """How a service is called."""

    timeout_seconds: float = 5.0
    """Of a unary call, its repeats included, where the caller does not ask for less. Streams have none."""
    slow: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The same of methods that take longer, by name ("EraseAppearances")."""
    connect_seconds: float = 1.0
    balancing: Balancing = Balancing()
    retries: Retries = Retries()
    breakers: Breakers = Breakers()
    outliers: Outliers = Outliers()
    checks: Checks = Checks()


@dataclass(frozen=True, slots=True)
class Service:
    """A kind of server: its short name ("match"), the contracts it serves, how to call it."""

    name: str
    contracts: tuple[str, ...]
    policy: Policy = field(default_factory=Policy)


class Health(StrEnum):
    """What the source says of a replica; Envoy and clients look for themselves as well."""

    SERVING = "serving"
    UNKNOWN = "unknown"
    """Not known to be bad: gets calls."""
    NOT_SERVING = "not_serving"
    """Gets calls only where nobody else is left (Envoy), or none (gRPC clients)."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One replica: "10.1.2.3:7002". Raises ValueError for a name, which neither Envoy nor gRPC would resolve here."""

    address: str
    health: Health = Health.UNKNOWN
    zone: str = ""

    def __post_init__(self) -> None:
        ip_address(self.host)
        if not self.port:
            raise ValueError(f"{self.address!r} has no port")

    @property
    def host(self) -> str:
        """The IP address, an IPv6 one without brackets."""
        return split_host_port(self.address)[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return split_host_port(self.address)[1]


Endpoints: TypeAlias = Mapping[str, frozenset[Endpoint]]
"""The replicas of each service by its short name; one that is missing has none."""
