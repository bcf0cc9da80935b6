"""Somebody with a good token takes every stream they can get."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from poi.v1 import alert_pb2, alert_pb2_grpc, match_pb2, match_pb2_grpc

from mesh import errors
from mesh.auth import Role
from mesh.limits import SHARE
from mesh.pki import Authority
from mesh.token import Accounts
from tests.auth.support import DAY, Clients, a_servicer, serving

MORE = 40


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    """Of a server that asks who calls."""
    pki, accounts = Authority(tmp_path / "pki"), Accounts(tmp_path / "keys")
    pki.create("poi-mesh")
    accounts.add_key()
    async with serving(pki.issue("match", "s1", DAY).files, accounts.jwks, a_servicer()) as server:
        made = Clients(pki, accounts)
        made.address = server.address
        yield made
        await made.close()


async def first(stream: Any) -> str:
    try:
        await stream.read()
    except grpc.aio.AioRpcError as error:
        told = errors.from_rpc(error)
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert getattr(told, "retry_after", None)
        return told.reason
    return "open"


def alerts(channel: grpc.aio.Channel) -> Any:
    return alert_pb2_grpc.AlertServiceStub(channel).StreamAlerts(alert_pb2.StreamAlertsRequest(parent="stores/s1"))


async def test_the_others_get_theirs(clients: Clients) -> None:
    greedy = clients.person(Role.OPERATOR, subject="alex")
    # Another token, another connection: the same person.
    again = clients.person(Role.OPERATOR, subject="alex")

    streams = [alerts(greedy) for _ in range(SHARE + MORE)]
    assert Counter(await asyncio.gather(*map(first, streams))) == {"open": SHARE, "SHARE_USED_UP": MORE}
    assert await first(alerts(again)) == "SHARE_USED_UP"

    assert await first(alerts(clients.person(Role.OPERATOR, subject="dana"))) == "open"
    stub = alert_pb2_grpc.AlertServiceStub(greedy)
    await stub.GetAlert(alert_pb2.GetAlertRequest(name="stores/s1/alerts/a"))

    async def batch() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        yield match_pb2.MatchDetectionsRequest(parent="stores/s1", batch_id=1)

    answers = match_pb2_grpc.MatchServiceStub(clients.service("ingest")).MatchDetections(batch())
    assert [answer.batch_id async for answer in answers] == [1]


async def test_watches_of_health_have_an_end_too(clients: Clients) -> None:
    """Whoever has a certificate may watch; a watch lasts like any stream."""
    health = health_pb2_grpc.HealthStub(clients.service("cli"))  # type: ignore[no-untyped-call]

    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(SHARE + MORE)]
    assert Counter(await asyncio.gather(*map(first, watches))) == {"open": SHARE, "SHARE_USED_UP": MORE}
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
