"""No caller has more of a server's open calls than their share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mesh import limits
from mesh.errors import ResourceExhausted
from mesh.interceptors import SharesInterceptor
from mesh.interceptors.base import Rpc
from mesh.peers import address_of, host_of
from mesh.principal import CURRENT, Principal

UNARY = Rpc("meshtest.v1.EchoService", "Say", False, False)
STREAM = Rpc("meshtest.v1.EchoService", "Chat", True, True)
PROBE = Rpc("grpc.health.v1.Health", "Check", False, False)
WATCH = Rpc("grpc.health.v1.Health", "Watch", False, True)
INGEST = Principal("service", "spiffe://poi-mesh/mesh/ingest", service="ingest")


class Context:
    """Of a call from an address, perhaps by the gateway."""

    def __init__(self, peer: str = "ipv4:192.0.2.1:5", *, shown: bytes = b"", client: str = "") -> None:
        self._peer, self._shown, self._client = peer, shown, client

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_spiffe_id": [self._shown]} if self._shown else {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-poi-client", self._client),) if self._client else ()


async def a_request() -> str:
    """What receives the one request of a unary call."""
    return "request"


class Server:
    """Calls that stay open."""

    def __init__(self) -> None:
        self._interceptor = SharesInterceptor()
        self._running: list[asyncio.Future[Any]] = []
        self._end = asyncio.Event()

    async def _handler(self, request: Any, context: Any) -> None:
        await self._end.wait()

    async def open(self, count: int, rpc: Rpc = STREAM, who: Principal | None = None, **context: Any) -> list[str]:
        """So many more; the reasons of those that were refused."""
        with calling(who):
            tasks = [
                asyncio.ensure_future(self._interceptor.wrap(rpc, self._handler)(a_request, Context(**context)))
                for _ in range(count)
            ]
        await asyncio.sleep(0)
        refused = [task.exception() for task in tasks if task.done()]
        self._running += [task for task in tasks if not task.done()]
        assert all(isinstance(error, ResourceExhausted) and error.retry_after for error in refused)
        return [error.reason for error in refused if isinstance(error, ResourceExhausted)]

    async def leave(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()


@contextmanager
def calling(who: Principal | None) -> Iterator[None]:
    token = CURRENT.set(who)
    try:
        yield
    finally:
        CURRENT.reset(token)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        *(("OPEN_CALLS", 20), ("PEOPLES_CALLS", 9), ("SHARE", 4)),
        *(("SERVICE_SHARE", 8), ("ADDRESS_SHARE", 8)),
    ):
        monkeypatch.setattr(limits, name, value)


def person(name: str) -> Principal:
    return Principal("person", name)


async def test_one_who_takes_all_they_can_get_leaves_room_for_the_others() -> None:
    server = Server()

    assert await server.open(10, who=person("alex")) == ["SHARE_USED_UP"] * 6
    assert await server.open(4, who=person("dana")) == []
    assert await server.open(1, UNARY, who=person("alex")) == [], "unary calls are counted apart"
    assert await server.open(1, WATCH, who=person("alex")) == [], "and watches of health"
    await server.leave()
    assert await server.open(4, who=person("alex")) == [], "who has left makes room"


async def test_people_together_leave_room_for_services() -> None:
    server = Server()

    for name in ("alex", "dana"):
        assert await server.open(4, who=person(name)) == []
    assert await server.open(4, who=person("kim")) == ["TOO_MANY_CALLS"] * 3
    assert await server.open(9, who=INGEST) == ["SHARE_USED_UP"]


async def test_a_subject_that_reads_like_a_services_id_has_no_part_in_its_share() -> None:
    server = Server()

    assert len(await server.open(8, who=person(INGEST.name))) == 4
    assert await server.open(8, who=INGEST) == []


async def test_without_authorisation_an_address_is_who_calls() -> None:
    server = Server()

    assert len(await server.open(9)) == 1
    assert await server.open(1, peer="ipv4:192.0.2.1:6") == ["SHARE_USED_UP"], "another port is nobody else"
    assert await server.open(8, peer="ipv4:192.0.2.2:5") == []
    assert await server.open(5, peer="ipv4:192.0.2.3:5") == ["TOO_MANY_CALLS"]


async def test_probes_are_never_refused() -> None:
    assert await Server().open(50, PROBE) == []


async def test_who_comes_through_the_gateway_is_whom_it_says_and_nobody_else_is() -> None:
    gateway = b"spiffe://poi-mesh/mesh/gateway"

    assert address_of(Context(shown=gateway, client="198.51.100.7")) == "198.51.100.7"
    assert address_of(Context(shown=b"spiffe://poi-mesh/mesh/cli", client="198.51.100.7")) == "192.0.2.1"
    assert address_of(Context(client="198.51.100.7")) == "192.0.2.1"


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:51034", "192.0.2.7"),
        ("ipv6:[2001:db8::1:7]:443", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::9%5D:443", "2001:db8::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:443", "192.0.2.7"),
        ("unix:", ""),
    ],
)
def test_hosts(peer: str, host: str) -> None:
    assert address_of(Context(peer)) == host


def test_an_address_that_is_none_is_not_remembered_whole() -> None:
    assert len(host_of("x" * 5000)) == 500
