"""A mesh with everything on: certificates, tokens, policy, audit, sealed storage and the gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from demo.secure import settings
from mesh.local import Mesh, free_port
from tests.support import PATIENCE

SERVICES = ("match", "alert", "audit")


@pytest.fixture(scope="package")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Running, with few services: what holds for one holds for all, by one table."""
    env = {
        "POI_DRAIN_SECONDS": "0",
        "POI_STORE": "store-1",
        "POI_HEARTBEAT_SECONDS": "0.2",
        "POI_ALERT_WEBSOCKET_LISTEN": f"127.0.0.1:{free_port()}",
        "POI_ALERT_WEBSOCKET_ORIGINS": '["https://console.example"]',
    }
    gateway = f"127.0.0.1:{free_port()}"
    directory = tmp_path_factory.mktemp("secure")
    env |= settings(directory, env["POI_STORE"])
    with Mesh(directory, env=env, services=SERVICES, secure=True, gateway=gateway) as mesh:
        _wait_for_gateway(mesh)
        yield mesh


def _wait_for_gateway(mesh: Mesh) -> None:
    """Until Envoy has heard of the services, and found them well."""
    assert mesh.gateway is not None
    over = time.monotonic() + PATIENCE
    well = 0
    while well < len(SERVICES):
        assert time.monotonic() < over, "the gateway knows nobody"
        time.sleep(0.05)
        statistics = mesh.gateway.stats("cluster[.].*[.]membership_healthy")
        well = sum(statistics.get(f"cluster.{name}.membership_healthy", 0) > 0 for name in SERVICES)
