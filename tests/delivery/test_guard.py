"""Private addresses and certificates, on a running server that allows no private network."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from poi.v1 import delivery_pb2

from mesh.errors import InvalidArgument
from mesh.local import Redis
from tests.alert_svc.support import fails
from tests.conftest import StartService
from tests.delivery.receiver import Receiver, receiving
from tests.delivery.support import SECRET, Client, client_of, env


@pytest.fixture
async def careful(own_redis: Redis, service: StartService, store: str) -> AsyncIterator[Client]:
    """A client of a server with the default guard."""
    server = service("alert_svc", env(own_redis, POI_ALERT_DELIVERY_ALLOW_NETWORKS="[]"))
    async with client_of(server.target, store) as client:
        yield client
        await client.delete_all()


async def test_a_private_address_is_refused_when_it_is_named(careful: Client) -> None:
    for url in ("http://127.0.0.1/", "http://[::1]:80/", "https://169.254.169.254/latest", "http://10.0.0.1/"):
        error = await fails(careful.webhook(url))
        assert isinstance(error, InvalidArgument)
        assert error.violations == [("target.webhook.url", "is a private address, which the server does not allow")]


async def test_a_name_of_a_private_address_is_never_connected_to(careful: Client, receiver: Receiver) -> None:
    await careful.webhook(receiver.url.replace("127.0.0.1", "localhost"))
    await careful.create("broker", mqtt=delivery_pb2.MqttTarget(broker_url="mqtt://localhost:1", topic="a"))

    for target in ("t", "broker"):
        outcome = await careful.test(target)
        assert not outcome.delivered
        assert outcome.error == "localhost is a private address, which the server does not allow"
    assert receiver.posts == []


@pytest.fixture
def key_pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that no authority signed, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hook -addext subjectAltName=DNS:localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_certificates_are_checked(
    own_redis: Redis, service: StartService, store: str, key_pair: tuple[Path, Path]
) -> None:
    certificate, key = key_pair
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    trusting = service("alert_svc", env(own_redis, POI_ALERT_DELIVERY_CA_FILE=str(certificate)), name="trusting")
    strict = service("alert_svc", env(own_redis), name="strict")
    async with receiving(Receiver(), tls) as receiver, client_of(strict.target, store) as unknown:
        named = receiver.url.replace("127.0.0.1", "localhost")
        await unknown.create(webhook=delivery_pb2.WebhookTarget(url=named, secret=SECRET))
        assert "CERTIFICATE_VERIFY_FAILED" in (await unknown.test()).error
        async with client_of(trusting.target, store) as known:
            assert (await known.test()).delivered
            await known.webhook(receiver.url, "by-address")
            assert "IP address mismatch" in (await known.test("by-address")).error
            await known.delete_all()
    assert receiver.posts[0].headers["host"] == f"localhost:{receiver.port}"
