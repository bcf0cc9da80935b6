"""WebSocket clients where callers must be known: TLS, a token, the policy's row, an end, and a record of it all."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from poi.v1 import audit_pb2, audit_pb2_grpc, delivery_pb2, delivery_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.typing import Origin, Subprotocol

from mesh.auth import Role
from mesh.auth.tokens import LEEWAY_SECONDS
from mesh.local import Mesh
from mesh.local.secured import Secured
from tests.support import PATIENCE

PARENT = "stores/store-1"
ACTION = "poi.v1.AlertService/StreamAlerts"


class Feed:
    """The address of a target, and those who may come."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        assert mesh.secured is not None
        self.secured: Secured = mesh.secured
        self.url = f"wss://{mesh.env['POI_ALERT_WEBSOCKET_LISTEN']}/v1/{name}"
        self.trust = ssl.create_default_context(cafile=self.secured.files("cli").ca)

    def connect(self, token: str = "", **options: Any) -> connect:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return connect(self.url, ssl=self.trust, additional_headers=headers, **options)

    def token(self, *roles: Role, stores: tuple[str, ...] = ()) -> str:
        return self.secured.token(roles, "kim", stores)

    async def refused(self, token: str = "") -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as caught:
            async with self.connect(token):
                pass
        response = caught.value.response
        return response.status_code, bytes(response.body or b"").decode()


@pytest.fixture
async def feed(secure: Mesh) -> Feed:
    """A target of the mesh, with the id "console"."""
    target = delivery_pb2.Target(websocket=delivery_pb2.WebSocketTarget())
    async with secure.connect("alert", Role.ADMIN) as channel:
        stub: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(channel)
        found = await stub.ListTargets(delivery_pb2.ListTargetsRequest(parent=PARENT))
        if not found.targets:
            await stub.CreateTarget(delivery_pb2.CreateTargetRequest(parent=PARENT, target_id="console", target=target))
    return Feed(secure, f"{PARENT}/targets/console")


async def heartbeat(connection: ClientConnection) -> None:
    async with asyncio.timeout(PATIENCE):
        assert json.loads(await connection.recv())["event"] == "ALERT_EVENT_HEARTBEAT"


async def heartbeats(connection: ClientConnection) -> None:
    while True:
        await heartbeat(connection)


async def test_a_token_opens_it_and_its_lack_does_not(feed: Feed, secure: Mesh) -> None:
    async with feed.connect(feed.token(Role.OPERATOR)) as connection:
        await heartbeat(connection)
    # A page cannot send headers of its own.
    spoken = [Subprotocol("poi.v1"), Subprotocol(f"poi.bearer.{feed.token(Role.ANALYST)}")]
    async with feed.connect(subprotocols=spoken, origin=Origin("https://console.example")) as connection:
        assert connection.subprotocol == "poi.v1"
        await heartbeat(connection)

    assert await feed.refused() == (401, "a token is needed (NO_TOKEN)\n")
    assert (await feed.refused("nonsense"))[0] == 401
    assert await feed.refused(feed.token(Role.ENROLLER)) == (403, "you may not do this (ROLE_MISSING)\n")
    assert await feed.refused(feed.token(Role.OPERATOR, stores=("store-2",))) == (404, "no such target\n")
    with pytest.raises((InvalidMessage, ConnectionError, EOFError)):
        async with connect(feed.url.replace("wss://", "ws://")):
            pass

    async with secure.connect("audit", Role.AUDITOR) as channel:
        stub: audit_pb2_grpc.AuditServiceAsyncStub = audit_pb2_grpc.AuditServiceStub(channel)
        request = audit_pb2.ListAuditRecordsRequest(
            parent=PARENT, filter=audit_pb2.AuditFilter(action=ACTION), page_size=100
        )
        records = (await stub.ListAuditRecords(request)).audit_records
    kept = {(record.code, record.details["reason"]) for record in records if record.resource.endswith("/console")}
    assert {("OK", ""), ("UNAUTHENTICATED", "NO_TOKEN"), ("PERMISSION_DENIED", "ROLE_MISSING")} <= kept
    assert any(record.code == "OK" and record.actor.name == "kim" for record in records)


async def test_only_who_may_acknowledge_alerts_takes_a_targets_deliveries(feed: Feed) -> None:
    """They go to nobody else then."""
    feed.url += "?acknowledge=true"

    assert await feed.refused(feed.token(Role.ANALYST)) == (403, "you may not do this (ROLE_MISSING)\n")
    async with feed.connect(feed.token(Role.OPERATOR)) as connection:
        await (await connection.ping())


@pytest.mark.timeout(300)
async def test_a_connection_ends_with_its_token(feed: Feed) -> None:
    for seconds in (4, 40, 120):  # on a machine with other work it may be over before it is shown
        try:
            connection = await feed.connect(nearly_over(feed, seconds))
            break
        except InvalidStatus:
            assert seconds < 120
    async with connection:
        with pytest.raises(ConnectionClosed) as closed:
            await heartbeats(connection)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "TOKEN_EXPIRED")


def nearly_over(feed: Feed, seconds: float) -> str:
    """A token that is good for so many more, by the leave that clocks are given."""
    *_, path = sorted(feed.secured.accounts.jwks.parent.glob("*.pem"))
    claims = jwt.decode(feed.token(Role.OPERATOR), options={"verify_signature": False})
    claims["exp"] = time.time() + seconds - LEEWAY_SECONDS
    claims["iat"] = claims["nbf"] = claims["exp"] - 60
    key: Any = load_pem_private_key(path.read_bytes(), password=None)
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": path.stem})
