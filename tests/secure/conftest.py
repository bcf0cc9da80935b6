"""A mesh with everything on: certificates, tokens, policy, audit, sealed storage and the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.secure import settings
from mesh.local import Mesh, free_port

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
        yield mesh
