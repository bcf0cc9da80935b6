"""Who may not is refused in the same way whatever they speak: REST, gRPC-Web, gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import urllib.error
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import httpx
import pytest
from cryptography import x509
from poi.v1 import alert_pb2, alert_pb2_grpc, audit_pb2, audit_pb2_grpc, registry_pb2, registry_pb2_grpc

from mesh import channels
from mesh.auth import Role
from mesh.errors import MeshError, PermissionDenied, from_rpc
from mesh.limits import SHARE
from mesh.local import Mesh
from tests.support import PATIENCE, until

OK, INVALID, NOT_FOUND, DENIED, UNAUTHENTICATED = 0, 3, 5, 7, 16
REST = {OK: 200, NOT_FOUND: 404, DENIED: 403, UNAUTHENTICATED: 401}
LIST = "/poi.v1.AlertService/ListAlerts"


def secured(mesh: Mesh) -> Any:
    assert mesh.secured is not None
    assert mesh.gateway is not None
    return mesh.secured


def trust(mesh: Mesh) -> ssl.SSLContext:
    """Of a browser, or curl: it knows the authority and has no certificate of its own."""
    return ssl.create_default_context(cafile=secured(mesh).files("cli").ca)


def http(mesh: Mesh) -> httpx.AsyncClient:
    assert mesh.gateway is not None
    return httpx.AsyncClient(base_url=f"https://{mesh.gateway.gateway}", verify=trust(mesh), timeout=PATIENCE)


def bearer(mesh: Mesh, *roles: Role, stores: tuple[str, ...] = ()) -> dict[str, str]:
    return {"authorization": f"Bearer {secured(mesh).token(roles, 'kim', stores)}"}


CASES = [
    pytest.param((Role.OPERATOR,), (), OK, id="operator"),
    pytest.param((), (), UNAUTHENTICATED, id="no token"),
    pytest.param((Role.ENROLLER,), (), DENIED, id="another role"),
    pytest.param((Role.OPERATOR,), ("store-2",), NOT_FOUND, id="another store"),
]


@pytest.mark.parametrize(("roles", "stores", "expected"), CASES)
async def test_the_same_answer_in_every_language(
    secure: Mesh, roles: tuple[Role, ...], stores: tuple[str, ...], expected: int
) -> None:
    headers = bearer(secure, *roles, stores=stores) if roles else {}
    message = alert_pb2.ListAlertsRequest(parent="stores/store-1").SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    web = {**headers, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    assert secure.gateway is not None

    async with http(secure) as client:

        async def rest() -> int:
            return (await client.get("/v1/stores/store-1/alerts", headers=headers)).status_code

        async def there() -> bool:
            return await rest() != 503  # Envoy has heard of nobody yet

        await until(there, "alert behind the gateway")
        assert await rest() == REST[expected]
        answer = await client.post(LIST, content=frame, headers=web)
        trailers = (
            answer.content.decode("latin-1").replace(" ", "") + f"grpc-status:{answer.headers.get('grpc-status')}"
        )
        assert f"grpc-status:{expected}" in trailers

    # A gRPC client from outside, without a certificate.
    credentials = grpc.ssl_channel_credentials(secured(secure).files("cli").ca.read_bytes())
    async with grpc.aio.secure_channel(secure.gateway.gateway, credentials) as channel:
        call = alert_pb2_grpc.AlertServiceStub(channel).ListAlerts(
            alert_pb2.ListAlertsRequest(parent="stores/store-1"), metadata=tuple(headers.items()), timeout=PATIENCE
        )
        assert await code(call) == expected
        if expected == UNAUTHENTICATED:
            assert await call.details() == "Jwt is missing", "a text, and no JSON as for REST"


async def code(call: Any) -> int:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        number: int = error.code().value[0]
        return number
    return OK


async def test_the_services_look_at_the_token_themselves(secure: Mesh) -> None:
    """Past the gateway, with a certificate that is good for nothing but to knock."""
    request = alert_pb2.ListAlertsRequest(parent="stores/store-1")
    async with secure.connect("alert") as nobody, secure.connect("alert", Role.OPERATOR) as operator:
        assert await code(alert_pb2_grpc.AlertServiceStub(nobody).ListAlerts(request)) == DENIED
        assert await code(alert_pb2_grpc.AlertServiceStub(operator).ListAlerts(request)) == OK
    async with secure.connect("gateway", Role.OPERATOR) as through:
        assert await code(alert_pb2_grpc.AlertServiceStub(through).ListAlerts(request)) == OK


async def test_one_person_does_not_take_all_streams_behind_the_gateway(secure: Mesh) -> None:
    """All come with the gateway's certificate: whose token it forwards is who they are."""

    async def first(stream: Any) -> str:
        try:
            await stream.read()
        except grpc.aio.AioRpcError as error:
            return from_rpc(error).reason
        return "open"

    def alerts(channel: grpc.aio.Channel) -> Any:
        return alert_pb2_grpc.AlertServiceStub(channel).StreamAlerts(
            alert_pb2.StreamAlertsRequest(parent="stores/store-1")
        )

    async with (
        secure.connect("gateway", Role.OPERATOR, subject="greedy") as greedy,
        secure.connect("gateway", Role.OPERATOR, subject="modest") as modest,
    ):
        streams = [alerts(greedy) for _ in range(SHARE + 5)]
        assert Counter(await asyncio.gather(*map(first, streams))) == {"open": SHARE, "SHARE_USED_UP": 5}
        assert await first(alerts(modest)) == "open"


async def test_the_audit_log_says_from_where_a_call_came(secure: Mesh) -> None:
    async with secure.connect("gateway", Role.AUDITOR, subject="eve") as through, http(secure) as client:
        forged = {"x-forwarded-for": "203.0.113.9", "x-poi-client": "203.0.113.9", **bearer(secure, Role.ENROLLER)}
        assert (await client.get("/v1/stores/store-1/alerts", headers=forged)).status_code == 403
        stub: audit_pb2_grpc.AuditServiceAsyncStub = audit_pb2_grpc.AuditServiceStub(through)
        request = audit_pb2.ListAuditRecordsRequest(parent="stores/store-1", page_size=100)
        await stub.ListAuditRecords(request)
        records = (await stub.ListAuditRecords(request)).audit_records

    peers = {record.peer.partition(" via ")[0] for record in records if record.actor.name == "eve"}
    assert peers == {"127.0.0.1"}
    assert {record.peer.partition(" via ")[0] for record in records if record.details["reason"] == "ROLE_MISSING"} >= {
        "127.0.0.1"
    }
    assert not any(record.peer.startswith("203.") for record in records)


def test_nobody_answers_in_the_clear(secure: Mesh) -> None:
    assert secure.control_plane is not None
    assert secure.gateway is not None
    addresses = [secure.gateway.gateway, secure.control_plane.target]
    for address in [*addresses, *(service.target for service in secure.services.values())]:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urlopen(f"http://{address}/healthz", timeout=PATIENCE)


async def test_a_server_registers_itself_alone(secure: Mesh) -> None:
    assert secure.control_plane is not None
    request = registry_pb2.RegisterRequest(
        service="alert", address="127.0.0.1:1", state=registry_pb2.SERVER_STATE_SERVING
    )

    async def words(count: int) -> AsyncIterator[registry_pb2.RegisterRequest]:
        for _ in range(count):
            yield request
        await asyncio.Event().wait()

    async def register(name: str, count: int) -> MeshError:
        assert secure.control_plane is not None
        channel = channels.connect(secure.control_plane.target, service="xds", tls=secured(secure).files(name))
        async with channel:
            stub: registry_pb2_grpc.RegistryServiceAsyncStub = registry_pb2_grpc.RegistryServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Register(words(count)):
                    pass
        return from_rpc(caught.value)

    as_another, as_a_tool = await register("match", 1), await register("cli", 0)
    assert isinstance(as_another, PermissionDenied)
    assert as_another.reason == "ANOTHER_SERVICE"
    assert isinstance(as_a_tool, PermissionDenied)


async def test_the_gateway_takes_the_tokens_of_a_new_key(secure: Mesh) -> None:
    old = bearer(secure, Role.OPERATOR)
    secured(secure).accounts.add_key()
    new = bearer(secure, Role.OPERATOR)
    async with http(secure) as client:

        async def taken() -> bool:
            return (await client.get("/v1/stores/store-1/alerts", headers=new)).status_code == 200

        await until(taken, "the new key at the gateway")
        assert (await client.get("/v1/stores/store-1/alerts", headers=old)).status_code == 200


async def test_certificates_are_exchanged_without_a_failed_call(secure: Mesh) -> None:
    over, calls = asyncio.Event(), 0
    assert secure.gateway is not None
    host, port = secure.gateway.gateway.rsplit(":", 1)

    def served() -> int:
        pem = ssl.get_server_certificate((host, int(port)))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    async def load(client: httpx.AsyncClient) -> None:
        nonlocal calls
        while not over.is_set():
            answer = await client.get("/v1/stores/store-1/alerts", headers=bearer(secure, Role.OPERATOR))
            assert answer.status_code == 200, answer.text
            calls += 1
            await asyncio.sleep(0.01)  # below what one client may

    before = await asyncio.to_thread(served)
    async with http(secure) as client, asyncio.TaskGroup() as group:
        group.create_task(load(client))
        await asyncio.to_thread(secured(secure).authority.renew, everything=True)

        async def renewed() -> bool:
            return await asyncio.to_thread(served) != before

        await until(renewed, "the new certificate at the gateway")
        seen = calls
        await until(lambda: calls >= seen + 20 > 20, "calls with the new certificate")
        over.set()
    async with http(secure) as client:  # new connections, in and out
        assert (await client.get("/v1/stores/store-1/alerts", headers=bearer(secure, Role.OPERATOR))).status_code == 200


def test_grpc_clients_find_servers_by_the_control_plane_over_tls(secure: Mesh, tmp_path: Path) -> None:
    """In a process of its own: gRPC reads its bootstrap once."""
    assert secure.control_plane is not None
    files = secured(secure).files("cli")
    credentials = {
        "type": "tls",
        "config": {
            "certificate_file": str(files.certificate.resolve()),
            "private_key_file": str(files.key.resolve()),
            "ca_certificate_file": str(files.ca.resolve()),
        },
    }
    server = {
        "server_uri": secure.control_plane.target,
        "channel_creds": [credentials],
        "server_features": ["xds_v3"],
    }
    (tmp_path / "xds.json").write_text(json.dumps({"xds_servers": [server], "node": {"id": "a-client"}}))
    env = {**os.environ, **secure.client_env(Role.OPERATOR), "GRPC_XDS_BOOTSTRAP": str(tmp_path / "xds.json")}

    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", "--alert-target", "xds:///alert", "alerts", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr
