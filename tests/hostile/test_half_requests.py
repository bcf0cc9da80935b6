"""Requests that stop short of their last bytes: gRPC keeps what has come of them, for as long as somebody waits."""

from __future__ import annotations

import asyncio
import ssl
import struct
from datetime import timedelta
from pathlib import Path

import pytest
from poi.v1 import region_pb2, region_pb2_grpc

from mesh.auth import Role
from mesh.channels import connect
from mesh.limits import RECEIVING_SHARE, WINDOW_BYTES
from mesh.pki import Authority
from mesh.settings import TlsFiles
from mesh.token import Accounts
from tests.conftest import StartService
from tests.hostile.conftest import STORE, Victim
from tests.support import PATIENCE
from tests.support.raw import RawClient

LIST, WATCH = "/poi.v1.RegionService/ListVisits", "/poi.v1.RegionService/WatchVisits"
SIZE = (8 << 20) - 1024
SHORT = bytes(SIZE - 100)
CALLS = 60
BOUND = 8 * RECEIVING_SHARE + 48  # MiB; 60 whole ones would be 480
DAY = timedelta(hours=24)


async def half_send(client: RawClient, path: str, *metadata: tuple[str, str]) -> list[int]:
    """Many calls, each with as much of its request as the server takes before it is silent; how much that is of each.

    Silent for seconds: on a busy machine it may just be slow, and then less than it might take is sent.
    """
    calls = [client.call(path, *metadata) for _ in range(CALLS)]
    for call in calls:
        await client.send(call, struct.pack(">BI", 0, SIZE))
    return await asyncio.gather(*(client.send(call, SHORT, patience=3.0) for call in calls))


def few_are_received(sent: list[int]) -> None:
    whole = [size for size in sent if size == len(SHORT)]
    assert len(whole) <= RECEIVING_SHARE
    assert all(size <= WINDOW_BYTES for size in sent if size != len(SHORT)), "the others wait outside"


@pytest.mark.parametrize("path", [LIST, WATCH])
async def test_of_an_address_where_nobody_is_asked_who_they_are(victim: Victim, path: str) -> None:
    async with RawClient(victim.target, source="127.0.0.2") as client, victim.others_are_served():
        few_are_received(await half_send(client, path))
        grown = victim.grown()

    assert grown < BOUND


async def test_of_somebody_with_a_token(service: StartService, redis_url: str, tmp_path: Path) -> None:
    pki, accounts = Authority(tmp_path / "pki"), Accounts(tmp_path / "keys")
    pki.create("poi-mesh")
    accounts.add_key()
    files = pki.issue("region", "store-1", DAY).files
    env = {"CERTIFICATE": files.certificate, "KEY": files.key, "CA": files.ca}
    running = service(
        "history_svc.region",
        {
            "POI_REDIS_URL": redis_url,
            "POI_METRICS_LISTEN": "",
            "POI_AUTH": "required",
            "POI_JWKS": str(accounts.jwks),
            **{f"POI_TLS_{name}": str(value) for name, value in env.items()},
        },
    )
    victim, tool = Victim(running), pki.issue("cli", "store-1", DAY).files

    def bearer(subject: str) -> str:
        return accounts.issue(subject, {Role.ANALYST}, {"store-1"}, timedelta(hours=1))

    tokens = {name: bearer(name) for name in ("alex", "dana")}
    async with (
        RawClient(running.target, tls=context_of(tool)) as client,
        connect(running.target, service="region", tls=tool, token=tokens["dana"], default_timeout=PATIENCE) as channel,
    ):
        stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)
        await stub.ListVisits(region_pb2.ListVisitsRequest(parent=STORE))
        victim.before = victim.memory()

        refused = [client.call(LIST, ("authorization", "Bearer nonsense")) for _ in range(3)]
        for call in refused:
            assert await client.status(call) == 16, "who they are is asked first"

        sending = asyncio.create_task(half_send(client, LIST, ("authorization", f"Bearer {tokens['alex']}")))
        while not sending.done():
            await stub.ListVisits(region_pb2.ListVisitsRequest(parent=STORE))
            await asyncio.sleep(0.05)
        few_are_received(sending.result())
        await stub.ListVisits(region_pb2.ListVisitsRequest(parent=STORE))
        grown = victim.grown()

    assert grown < BOUND + 32  # and TLS


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """As a tool connects, whatever name the server has."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.check_hostname = False
    context.load_cert_chain(str(files.certificate), str(files.key))
    context.set_alpn_protocols(["h2"])
    return context


async def test_who_has_left_makes_room(victim: Victim) -> None:
    async with RawClient(victim.target, source="127.0.0.3") as client, victim.others_are_served():
        await half_send(client, LIST)
        # Nor has gRPC, which measures how fast it is, let it send megabytes that nobody asked for.
        assert client.window <= WINDOW_BYTES
    async with RawClient(victim.target, source="127.0.0.3") as client:
        call = client.call(LIST)
        await client.send(call, struct.pack(">BI", 0, 0))
        assert await client.status(call) == 3
