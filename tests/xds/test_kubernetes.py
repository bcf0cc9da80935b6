"""Replicas from EndpointSlices: every change is seen, whatever happens to the API server meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from mesh.xds.model import Endpoint, Health
from mesh.xds.sources.kubernetes import KubernetesSource
from tests.support import PATIENCE
from tests.xds.apiserver import ApiServer, endpoint_slice


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


async def test_changes_are_followed_over_broken_connections_and_forgotten_versions(api: ApiServer) -> None:
    api.put(endpoint_slice("match", "10.0.0.1"))
    async with aclosing(KubernetesSource("shop", api.url).watch()) as source:

        async def addresses(service: str = "match") -> set[str]:
            async with asyncio.timeout(PATIENCE):
                return {endpoint.address for endpoint in (await anext(source)).get(service, ())}

        assert await addresses() == {"10.0.0.1:7002"}
        api.put(endpoint_slice("match", "10.0.0.2", name="match-more"))
        assert await addresses() == {"10.0.0.1:7002", "10.0.0.2:7002"}
        api.delete("match-abc")
        assert await addresses() == {"10.0.0.2:7002"}

        api.drop()
        api.put(endpoint_slice("match", "10.0.0.3", name="match-more"))
        assert await addresses() == {"10.0.0.3:7002"}
        assert api.lists == 1, "a broken watch is resumed where it broke"

        api.status = 503
        api.drop()
        api.put(endpoint_slice("match", "10.0.0.4", name="match-more"))
        waiting = asyncio.create_task(addresses())
        await asyncio.sleep(0.5)
        assert not waiting.done(), "nothing is said while the API server is away"
        api.status = 200
        assert await waiting == {"10.0.0.4:7002"}

        api.compact()
        api.put(endpoint_slice("match", "10.0.0.5", name="match-more"))
        assert await addresses() == {"10.0.0.5:7002"}
        api.drop()
        api.delete("match-more")
        api.put(endpoint_slice("embed", "10.0.0.6"))
        api.compact()
        assert await addresses("embed") == {"10.0.0.6:7002"}
        assert api.lists == 2, "a version that is gone asks for a new list"
        api.put(endpoint_slice("embed", "10.0.0.7"))
        assert await addresses("embed") == {"10.0.0.7:7002"}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({}, {Endpoint("10.0.0.1:7002", Health.SERVING)}),
        ({"zone": "b"}, {Endpoint("10.0.0.1:7002", Health.SERVING, "b")}),
        ({"conditions": {}}, {Endpoint("10.0.0.1:7002", Health.SERVING)}),
        ({"conditions": {"ready": False}}, {Endpoint("10.0.0.1:7002", Health.NOT_SERVING)}),
        ({"conditions": {"ready": False, "terminating": True}}, set()),
    ],
)
async def test_conditions_say_whether_a_replica_gets_calls(
    api: ApiServer, endpoint: dict[str, Any], expected: set[Endpoint]
) -> None:
    api.put(endpoint_slice("match", "10.0.0.1", **endpoint))
    api.put(endpoint_slice("somebody-elses", "10.0.0.9"))

    async with aclosing(KubernetesSource("shop", api.url).watch()) as source:
        async with asyncio.timeout(PATIENCE):
            found = await anext(source)

    assert {name: set(endpoints) for name, endpoints in found.items()} == ({"match": expected} if expected else {})


async def test_a_replica_that_is_in_two_slices_for_a_moment_is_one(api: ApiServer) -> None:
    for number, ready in enumerate((False, True, False)):
        api.put(endpoint_slice("match", "10.0.0.1", name=f"match-{number}", conditions={"ready": ready}))

    async with aclosing(KubernetesSource("shop", api.url).watch()) as source:
        async with asyncio.timeout(PATIENCE):
            found = await anext(source)

    assert found["match"] == {Endpoint("10.0.0.1:7002", Health.SERVING)}


async def test_an_api_that_ends_every_watch_at_once_is_not_asked_without_a_pause(api: ApiServer) -> None:
    api.put(endpoint_slice("match", "10.0.0.1"))
    api.ends_watches = True
    async with aclosing(KubernetesSource("shop", api.url).watch()) as source:
        await anext(source)
        waiting = asyncio.create_task(anext(source))
        await asyncio.sleep(1)
        assert len(api.watches) <= 10
        api.ends_watches = False
        api.put(endpoint_slice("match", "10.0.0.2"))
        async with asyncio.timeout(PATIENCE):
            assert {endpoint.address for endpoint in (await waiting)["match"]} == {"10.0.0.2:7002"}
