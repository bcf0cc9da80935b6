"""The keys of tokens that the gateway takes: where they come from, how they change, and when there are none."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from poi.v1 import alert_pb2, alert_pb2_grpc

from mesh.auth.keys import public_jwks
from mesh.auth.tokens import LOCAL_ISSUER
from mesh.local import Envoy
from mesh.xds.__main__ import keys_of
from mesh.xds.settings import XdsSettings
from tests.support import PATIENCE, until
from tests.xds.conftest import ControlPlane, StartReplica, who
from tests.xds.issuer import Issuer, Provider

GALLERY = "/v1/stores/s1/galleryStatus"
SOON = {"POI_XDS_GATEWAY_JWKS_SECONDS": "1"}
StartPlane = Callable[..., ControlPlane]
StartEnvoy = Callable[..., Envoy]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Callable[[ControlPlane], httpx.AsyncClient]]:
    async with AsyncExitStack() as undo:

        def client(plane: ControlPlane) -> httpx.AsyncClient:
            made = httpx.AsyncClient(base_url=f"http://{plane.gateway}", timeout=PATIENCE)
            undo.push_async_callback(made.aclose)
            return made

        yield client


async def status(client: httpx.AsyncClient, token: str) -> int:
    return (await client.get(GALLERY, headers={"authorization": f"Bearer {token}"})).status_code


async def answers(client: httpx.AsyncClient, token: str, wanted: int) -> None:
    async def reached() -> bool:
        return await status(client, token) == wanted

    await until(reached, f"{wanted} for a token")


def metric(plane: ControlPlane, name: str, issuer: str) -> float:
    with urlopen(plane.service.metrics_url) as response:
        lines = response.read().decode().splitlines()
    start = f'{name}{{issuer="{issuer}"}} '
    (found,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
    return float(found)


@pytest.mark.parametrize("delta", [False, True], ids=["state_of_the_world", "delta"])
async def test_other_keys_leave_open_streams_alone(
    control_plane: StartPlane,
    envoy: StartEnvoy,
    replica: StartReplica,
    channel: Callable[[str], grpc.aio.Channel],
    http: Callable[[ControlPlane], httpx.AsyncClient],
    tmp_path: Path,
    delta: bool,
) -> None:
    issuer, path, server = Issuer(LOCAL_ISSUER), tmp_path / "jwks.json", await replica(7)
    path.write_text(issuer.jwks)
    plane = await asyncio.to_thread(control_plane, {"POI_XDS_GATEWAY_JWKS": str(path)}, match=[server], alert=[server])
    program = await asyncio.to_thread(envoy, plane, delta=delta)
    client, old = http(plane), issuer.token()
    await answers(client, old, 200)

    def listeners() -> int:
        return program.stats("listener_manager.lds.update_success")["listener_manager.lds.update_success"]

    before = await asyncio.to_thread(listeners)
    metadata = (("authorization", f"Bearer {old}"),)
    stub = alert_pb2_grpc.AlertServiceStub(channel(plane.gateway))
    stream = aiter(stub.StreamAlerts(alert_pb2.StreamAlertsRequest(parent="stores/s1"), metadata=metadata))
    assert (await anext(stream)).alert.name == "stores/s1/alerts/0"

    issuer.rotate()
    path.write_text(issuer.jwks)

    await answers(client, issuer.token(), 200)
    await answers(client, old, 401)
    for number in range(1, 200):
        assert (await anext(stream)).alert.name == f"stores/s1/alerts/{number}"
    assert await asyncio.to_thread(listeners) == before


async def test_each_issuer_has_its_own_keys_and_the_last_good_ones_stay(
    control_plane: StartPlane,
    envoy: StartEnvoy,
    replica: StartReplica,
    http: Callable[[ControlPlane], httpx.AsyncClient],
    provider: Provider,
    tmp_path: Path,
) -> None:
    local, path, server = Issuer(LOCAL_ISSUER), tmp_path / "jwks.json", await replica(7)
    path.write_text(local.jwks)
    settings = {
        "POI_XDS_GATEWAY_JWKS": str(path),
        "POI_XDS_GATEWAY_JWT_ISSUERS": json.dumps({provider.url: ""}),
        **SOON,
    }
    plane = await asyncio.to_thread(control_plane, settings, match=[server])
    await asyncio.to_thread(envoy, plane)
    client, issuer = http(plane), provider.issuer
    await answers(client, issuer.token(), 200)
    await answers(client, local.token(), 200)
    assert await status(client, local.token(iss=provider.url)) == 401
    assert await status(client, issuer.token(iss=LOCAL_ISSUER)) == 401
    assert await status(client, issuer.token(aud="somebody-else")) == 403

    provider.down = True
    asked = provider.asked
    await until(lambda: provider.asked >= asked + 3, "questions to the provider")
    assert await status(client, issuer.token()) == 200
    assert metric(plane, "poi_xds_issuer_failures_total", provider.url) >= 2
    assert metric(plane, "poi_xds_issuer_failures_total", LOCAL_ISSUER) == 0
    assert metric(plane, "poi_xds_issuer_keys", provider.url) == 1
    assert plane.service.log_tail(1000).count("jwks_not_usable") == 1, "said once"

    old = issuer.token()
    issuer.rotate()
    provider.down = False
    await answers(client, issuer.token(), 200)
    await answers(client, old, 401)
    assert await status(client, local.token()) == 200


async def test_without_keys_nothing_is_let_through_and_no_issuer_waits_for_another(
    control_plane: StartPlane,
    envoy: StartEnvoy,
    replica: StartReplica,
    channel: Callable[[str], grpc.aio.Channel],
    http: Callable[[ControlPlane], httpx.AsyncClient],
    provider: Provider,
) -> None:
    server = await replica(7)
    provider.down = True
    with Provider() as other:
        other.down = True
        issuers = {provider.url: f"{provider.url}/keys", other.url: ""}
        settings = {"POI_XDS_GATEWAY_JWT_ISSUERS": json.dumps(issuers), **SOON}
        plane = await asyncio.to_thread(control_plane, settings, match=[server])
        assert await who(channel("xds:///match"), 1) == [7], "services find each other without anybody's keys"
        starting = asyncio.create_task(asyncio.to_thread(envoy, plane))
        asked = provider.asked
        await until(lambda: provider.asked >= asked + 3, "questions to the provider")
        with pytest.raises(httpx.ConnectError):
            await http(plane).get(GALLERY)
        assert not starting.done()

        provider.down = False
        await starting
        client = http(plane)
        await answers(client, provider.issuer.token(), 200)
        assert await status(client, other.issuer.token()) == 401
        provider.down = True
        await asyncio.to_thread(plane.service.kill)
        await asyncio.to_thread(plane.service.start)
        asked = provider.asked
        await until(lambda: provider.asked >= asked + 3, "questions to the provider")
        assert await status(client, provider.issuer.token()) == 200, "a restart takes nobody's last keys"
        assert (await client.get(GALLERY)).status_code == 401


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"gateway_jwks": "absent.json"}, "POI_XDS_GATEWAY_JWKS: absent.json: No such file"),
        ({"gateway_jwks": "http://keys.example/"}, "POI_XDS_GATEWAY_JWKS: http://keys.example/: .* https"),
        ({"gateway_jwks": "empty.json"}, "POI_XDS_GATEWAY_JWKS: empty.json: has no key"),
        ({"gateway_jwks": "page.html"}, "POI_XDS_GATEWAY_JWKS: page.html: "),
        ({"gateway_jwt_issuers": {"login.example": ""}}, "POI_XDS_GATEWAY_JWT_ISSUERS: 'login.example': .* https"),
        ({"gateway_jwt_issuers": {"": "https://keys.example/"}}, "JWT_ISSUERS: https://keys.example/: .* a name"),
    ],
)
def test_what_cannot_be_keys_is_refused_at_the_start(
    given: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text('{"keys": []}')
    Path("page.html").write_text("<html>")

    with pytest.raises(SystemExit) as ended:
        keys_of(XdsSettings(**given))

    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(why, line), line


def test_only_what_is_public_of_keys_that_services_take_goes_to_envoy() -> None:
    (signing, encrypting) = json.loads(Issuer().jwks)["keys"]
    careless = {**RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True), "kid": "careless"}
    shared = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"}

    sent = json.loads(public_jwks(json.dumps({"keys": [signing, encrypting, shared, careless]}).encode()))["keys"]

    assert [(key["kid"], key["alg"]) for key in sent] == [(signing["kid"], "RS256"), ("careless", "RS256")]
    assert set(sent[0]) == {"kty", "kid", "use", "n", "e", "alg"}
    assert set(sent[1]) == {"kty", "kid", "n", "e", "alg"}
    with pytest.raises(ValueError, match="has no key"):
        public_jwks(json.dumps({"keys": [shared, encrypting]}).encode())
