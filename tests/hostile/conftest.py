"""A server under attack, its memory, and another client that wants to be served meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil
import pytest
from poi.v1 import region_pb2, region_pb2_grpc

from mesh.channels import connect
from mesh.local import Redis, Service

STORE = "stores/store-1"
_CALL_SECONDS = 30.0  # of a call that takes a millisecond: the machine is busy with the attack, and maybe more


@dataclass
class Victim:
    """A running server."""

    service: Service
    before: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds that each call of the other client took."""

    @property
    def target(self) -> str:
        return self.service.target

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.service.pid).memory_info().rss)

    def grown(self) -> int:
        """MiB since the attack began."""
        return (self.memory() - self.before) >> 20

    @asynccontextmanager
    async def others_are_served(self) -> AsyncIterator[None]:
        """Another client calls all the time, and each call must be answered in time."""
        async with connect(self.target, default_timeout=_CALL_SECONDS) as channel:
            stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)

            async def ask() -> None:
                started = time.perf_counter()
                await stub.ListVisits(region_pb2.ListVisitsRequest(parent=STORE))
                self.waits.append(time.perf_counter() - started)

            async def go_on() -> None:
                while True:
                    await ask()
                    await asyncio.sleep(0.05)

            await ask()
            self.waits.clear()
            self.before = self.memory()
            asking = asyncio.create_task(go_on())
            try:
                yield
                assert not asking.done(), asking.exception()
                await ask()
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        assert len(self.waits) > 1


@pytest.fixture(scope="module")
def region(redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server of the region service; any other stands on the same chassis."""
    env = {"POI_REDIS_URL": redis_server.url, "POI_LOG_LEVEL": "warning", "POI_REGION_HEARTBEAT_SECONDS": "60"}
    with Service(
        "history_svc.region", tmp_path_factory.mktemp("hostile"), {**env, "POI_DRAIN_SECONDS": "0"}
    ) as running:
        yield running


@pytest.fixture
def victim(region: Service) -> Victim:
    """It, before the attack."""
    return Victim(region)
