"""The services behind the gateway, found by their own registration."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.request import urlopen

import grpc
import httpx
from poi.v1 import ingest_pb2, ingest_pb2_grpc, match_pb2, match_pb2_grpc

from mesh.local import Mesh, Service, free_port
from tests.support import PATIENCE, until

SERVICES = ("match", "history", "region", "alert", "ingest")
_COUNTER = re.compile(r"grpc_server_handled_total\{.*GetGalleryStatus")
PATHS = ("galleryStatus", "pois", "appearances", "visits", "alerts", "targets", "ingestStatus")


async def test_every_service_answers_through_the_gateway(tmp_path: Path) -> None:
    gateway = f"127.0.0.1:{free_port()}"
    mesh = Mesh(tmp_path, env={"POI_DRAIN_SECONDS": "0"}, services=SERVICES, gateway=gateway)
    await asyncio.to_thread(mesh.start)
    try:
        async with httpx.AsyncClient(base_url=f"http://{gateway}/v1/stores/store-1/", timeout=PATIENCE) as http:

            async def there() -> bool:
                return all([(await http.get(path)).status_code == 200 for path in PATHS])

            await until(there, "every service behind the gateway")
            assert (await http.get("models")).status_code == 503, "embed does not run"
        async with grpc.aio.insecure_channel(gateway) as channel:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)
            name = "stores/store-1/ingestStatus"
            assert (await stub.GetIngestStatus(ingest_pb2.GetIngestStatusRequest(name=name))).name == name
    finally:
        await asyncio.to_thread(mesh.stop)


async def test_a_replica_that_is_killed_under_load_costs_no_call(tmp_path: Path) -> None:
    gateway = f"127.0.0.1:{free_port()}"
    limits = {"POI_XDS_GATEWAY_CALLS_PER_SECOND": "100000", "POI_XDS_GATEWAY_BURST": "100000"}
    mesh = Mesh(tmp_path, env=limits, services=["match"], gateway=gateway)
    second = mesh.replica("match", "match-2")
    request = match_pb2.GetGalleryStatusRequest(name="stores/store-1/galleryStatus")
    over = asyncio.Event()
    calls = 0

    async def load(stub: match_pb2_grpc.MatchServiceAsyncStub) -> None:
        nonlocal calls
        while not over.is_set():
            await stub.GetGalleryStatus(request, timeout=PATIENCE)  # any failure ends the test
            calls += 1

    async def has_its_share() -> bool:
        return await asyncio.to_thread(_answered, second) > 20

    await asyncio.to_thread(mesh.start)
    try:
        await asyncio.to_thread(second.start)
        async with grpc.aio.insecure_channel(gateway, options=[("grpc.enable_retries", 0)]) as channel:
            stub: match_pb2_grpc.MatchServiceAsyncStub = match_pb2_grpc.MatchServiceStub(channel)
            await stub.GetGalleryStatus(request, wait_for_ready=True, timeout=PATIENCE)
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(load(stub))
                await until(has_its_share, "calls of the second replica")
                await asyncio.to_thread(second.kill)
                before = calls
                await until(lambda: calls > before + 1_000, "calls after its end")
                over.set()
    finally:
        await asyncio.to_thread(second.stop)
        await asyncio.to_thread(mesh.stop)


def _answered(service: Service) -> float:
    """Calls of GetGalleryStatus that a server has answered."""
    with urlopen(service.metrics_url) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if _COUNTER.match(line))
