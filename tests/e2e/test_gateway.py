"""The services behind the gateway, found by their own registration."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import httpx
from poi.v1 import ingest_pb2, ingest_pb2_grpc

from mesh.local import Mesh, free_port
from tests.e2e.client import until

SERVICES = ("match", "history", "region", "alert", "ingest")
PATHS = ("galleryStatus", "pois", "appearances", "visits", "alerts", "targets", "ingestStatus")


async def test_every_service_answers_through_the_gateway(tmp_path: Path) -> None:
    gateway = f"127.0.0.1:{free_port()}"
    mesh = Mesh(tmp_path, env={"POI_DRAIN_SECONDS": "0"}, services=SERVICES, gateway=gateway)
    await asyncio.to_thread(mesh.start)
    try:
        async with httpx.AsyncClient(base_url=f"http://{gateway}/v1/stores/store-1/", timeout=10.0) as http:

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
