"""From a source to what is published, and to what is counted."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from prometheus_client import REGISTRY

from mesh.xds.gateway import Edge
from mesh.xds.model import Endpoint, Endpoints, Health
from mesh.xds.plane import Builder, Plane
from mesh.xds.policy import SERVICES
from mesh.xds.snapshot import Board


class Said:
    """A source that says these things, and ends."""

    def __init__(self, *said: Endpoints) -> None:
        self._said = said

    async def watch(self) -> AsyncGenerator[Endpoints, None]:
        for endpoints in self._said:
            yield endpoints


def counted(service: str) -> float | None:
    return REGISTRY.get_sample_value("poi_xds_endpoints", {"service": service, "health": "serving"})


async def test_a_service_whose_last_replica_left_is_counted_as_having_none() -> None:
    edge = Edge(listen="127.0.0.1:1", descriptors=b"", openapi="{}")
    plane = Plane(Board(), Builder(SERVICES.values(), edge), lambda: None)
    here = frozenset({Endpoint("10.0.0.1:7002", Health.SERVING)})

    await plane.follow(Said({"match": here, "alert": here}))
    assert (counted("match"), counted("alert"), counted("embed")) == (1, 1, 0)
    await plane.follow(Said({"alert": here}))

    assert (counted("match"), counted("alert")) == (0, 1)
