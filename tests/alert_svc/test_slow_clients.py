"""Clients that do not read, or too slowly: they are told where they were, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2

from mesh import errors
from mesh.errors import from_rpc
from mesh.local import Redis, Service
from tests.alert_svc.support import Follower, candidate, connected, next_event, raise_alerts

COUNT = 400


async def raise_large(client: Any, store: str) -> list[str]:
    """Alerts that are more (8 MB) than the transport takes for a client that does not read."""
    names = []
    for start in range(0, COUNT, 50):
        made = [candidate(store, f"a{number}") for number in range(start, start + 50)]
        for each in made:
            each.match.display_name = "n" * 20_000
        names += [raised.alert for raised in (await raise_alerts(client, store, *made)).alerts]
    return names


@pytest.mark.parametrize("limit", ["ring", "seconds"])
async def test_a_client_that_does_not_read_is_told_its_cursor_and_misses_nothing(
    redis_server: Redis, service: Callable[..., Service], store: str, limit: str
) -> None:
    limits = {"ring": {"POI_ALERT_RING": "64"}, "seconds": {"POI_SLOW_CLIENT_SECONDS": "0.3"}}
    server = service("alert_svc", {"POI_REDIS_URL": redis_server.url, **limits[limit]})
    async with connected(server.target) as sleepy, connected(server.target) as client:
        call: Any = sleepy.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=store))
        cursor = (await call.read()).cursor
        follower = Follower(store, server.target, cursor=cursor)
        reading = asyncio.create_task(follower.run(COUNT))
        names = await raise_large(client, store)
        await reading
        await asyncio.sleep(0.5)

        seen: list[str] = []
        try:
            while len(seen) < COUNT:
                response = await next_event(call)
                seen.append(response.alert.name)
                cursor = response.cursor
            pytest.fail("nobody told the client")
        except grpc.aio.AioRpcError as error:
            told = from_rpc(error)
    assert isinstance(told, errors.ResourceExhausted)
    assert (told.reason, told.metadata["cursor"]) == ("SLOW_CLIENT", cursor)
    assert 0 < len(seen) < COUNT

    resumed = Follower(store, server.target, cursor=told.metadata["cursor"])
    await resumed.run(COUNT - len(seen))
    assert seen + resumed.alerts == names
    # Who reads was not delayed for as long, and was not taken for slow.
    assert follower.alerts == names


async def test_a_client_that_begins_in_the_past_is_not_slow(
    redis_server: Redis, service: Callable[..., Service], store: str
) -> None:
    server = service("alert_svc", {"POI_REDIS_URL": redis_server.url, "POI_ALERT_RING": "16"})
    async with connected(server.target) as client:
        names = await raise_large(client, store)
    follower = Follower(store, server.target, cursor="0-0")
    await follower.run(COUNT)
    assert follower.alerts == names
    assert not follower.interruptions
