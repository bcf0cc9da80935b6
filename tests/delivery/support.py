"""Clients of the delivery service, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from poi.v1 import alert_pb2_grpc, delivery_pb2, delivery_pb2_grpc

from mesh import channels
from mesh.local import Redis
from tests.alert_svc.support import raise_numbers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FAST = {
    "POI_HEARTBEAT_SECONDS": "0.2",
    "POI_ALERT_DELIVERY_ALLOW_NETWORKS": '["127.0.0.0/8", "::1/128"]',
    "POI_ALERT_DELIVERY_TIMEOUT_SECONDS": "30",
    "POI_ALERT_DELIVERY_BACKOFF_SECONDS": "0.05",
    "POI_ALERT_DELIVERY_MAX_BACKOFF_SECONDS": "0.2",
    "POI_ALERT_DELIVERY_BREAKER_SECONDS": "0.3",
    "POI_ALERT_DELIVERY_LEASE_SECONDS": "3",
}
"""Settings with which nobody waits long, and targets may be on this machine."""
HASTY = {"POI_ALERT_DELIVERY_TIMEOUT_SECONDS": "0.5"}
"""Where somebody hangs."""


class Client:
    """Both services of one server."""

    def __init__(self, channel: Any, store: str) -> None:
        self.alerts = alert_pb2_grpc.AlertServiceStub(channel)
        self.delivery: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(channel)
        self.store = store

    async def create(self, target_id: str = "t", **fields: Any) -> delivery_pb2.Target:
        request = delivery_pb2.CreateTargetRequest(
            parent=self.store, target=delivery_pb2.Target(**fields), target_id=target_id
        )
        return await self.delivery.CreateTarget(request)

    async def webhook(self, url: str, target_id: str = "t", **fields: Any) -> delivery_pb2.Target:
        hook = delivery_pb2.WebhookTarget(url=url, secret=SECRET)
        return await self.create(target_id, webhook=hook, **fields)

    async def get(self, target_id: str = "t") -> delivery_pb2.Target:
        return await self.delivery.GetTarget(delivery_pb2.GetTargetRequest(name=f"{self.store}/targets/{target_id}"))

    async def deliveries(self, target_id: str = "t", **fields: Any) -> list[delivery_pb2.Delivery]:
        request = delivery_pb2.ListDeliveriesRequest(parent=f"{self.store}/targets/{target_id}", **fields)
        return list((await self.delivery.ListDeliveries(request)).deliveries)

    async def replay(self, *deliveries: str, target_id: str = "t") -> int:
        request = delivery_pb2.ReplayDeliveriesRequest(
            parent=f"{self.store}/targets/{target_id}", deliveries=deliveries
        )
        return (await self.delivery.ReplayDeliveries(request)).replayed_count

    async def test(self, target_id: str = "t") -> delivery_pb2.TestTargetResponse:
        return await self.delivery.TestTarget(delivery_pb2.TestTargetRequest(name=f"{self.store}/targets/{target_id}"))

    async def delete_all(self) -> None:
        listed = await self.delivery.ListTargets(delivery_pb2.ListTargetsRequest(parent=self.store))
        for target in listed.targets:
            await self.delivery.DeleteTarget(delivery_pb2.DeleteTargetRequest(name=target.name))

    async def raise_numbers(self, numbers: range) -> list[str]:
        return await raise_numbers(self.alerts, self.store, numbers)


@asynccontextmanager
async def client_of(target: str, store: str) -> AsyncIterator[Client]:
    channel = channels.connect(target)
    try:
        yield Client(channel, store)
    finally:
        await channel.close()


async def settled(client: Client, count: int, state: int, target_id: str = "t", seconds: float = 60.0) -> Any:
    """The deliveries in a state, once there are so many."""
    async with asyncio.timeout(seconds):
        while True:
            found = await client.deliveries(target_id, state=state, page_size=1000)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


def env(redis: Redis, **more: str) -> dict[str, str]:
    return {**FAST, "POI_REDIS_URL": redis.url, **more}
