"""Damage of the log is kept while sealing goes on, and health tells of it until somebody saw to it."""

import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from history_svc import metrics, segments
from history_svc.store import History
from mesh.local import Service
from tests.history_svc.client import Client
from tests.history_svc.conftest import StartHistory
from tests.history_svc.test_crash import _batches, _log_files, _metric
from tests.history_svc.test_sealing import _detections, _settings, append, running, sealed
from tests.support import until


async def test_a_closed_log_file_damaged_before_it_is_sealed_is_kept_in_quarantine(tmp_path: Path) -> None:
    settings = _settings(tmp_path, seal_faces=100_000)
    async with running(settings, sealing=False) as history:
        for begin in range(0, 240, 60):
            await append(history, _detections(begin, 60))
    (log,) = (tmp_path / "data").glob("detections-*.log")
    records = [one for one in segments.read(log) if isinstance(one, bytes)]
    content = log.read_bytes()
    start = content.index(records[2]) - segments.HEAD_BYTES
    end = start + segments.HEAD_BYTES + len(records[2])
    history = History.open(settings.model_copy(update={"seal_faces": 100}))
    tasks = [asyncio.create_task(history.write())]
    before = metrics.QUARANTINED_BYTES._value.get()
    try:
        with log.open("r+b") as file:
            file.seek(start + 100)
            file.write(bytes([content[start + 100] ^ 4]))
        tasks.append(asyncio.create_task(history.seal()))
        await until(lambda: not log.exists(), "it is sealed")
        assert len(history.sealed.segments) == 1
        assert history.sealed.segments[0].manifest.rows == 180
        (kept,) = (tmp_path / "data" / "quarantine").iterdir()
        damaged = bytearray(content[start:end])
        damaged[100] ^= 4
        assert kept.read_bytes() == damaged
        assert metrics.QUARANTINED_BYTES._value.get() - before == end - start
        assert metrics.QUARANTINED_FILES._value.get() == 1
        # Sealing goes on.
        await append(history, _detections(300, 180))
        await sealed(history, 2)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await history.close()


async def test_a_log_file_that_is_gone_before_it_is_sealed_holds_up_nothing(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    async with running(settings, sealing=False) as history:
        await append(history, _detections(0, 180))
    async with running(settings) as history:
        (tmp_path / "data" / "detections-000000000001.log").unlink()
        await append(history, _detections(200, 180))
        await until(lambda: any(one.manifest.rows == 180 for one in history.sealed.segments), "the next is sealed")


async def _health(server: Service, name: str) -> int:
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        return int(response.status)


async def test_health_tells_of_quarantine_until_it_is_empty(start: StartHistory, data_dir: Path) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    storage = "poi.v1.HistoryService/storage"
    server = start({"POI_HISTORY_SWEEP_SECONDS": "0.1"})
    async with Client(server.target) as client:
        sizes = []
        for batch in _batches(3):
            await client.append(*batch.detections)
            sizes.append(_log_files(data_dir)[0].stat().st_size)
        assert await _health(server, storage) == serving
        server.kill()
        (path,) = _log_files(data_dir)
        content = bytearray(path.read_bytes())
        content[sizes[0] + 500] ^= 1
        path.write_bytes(content)
        server.start()

        assert await _health(server, storage) == not_serving
        # It does its work: nobody is to be sent elsewhere for it.
        assert await _health(server, "") == await _health(server, "poi.v1.HistoryService") == serving
        assert _metric(server, "poi_history_quarantined_files") == 1
        assert _metric(server, "poi_history_quarantined_segments") == 0

        for one in (data_dir / "quarantine").iterdir():  # what an operator does in the end
            one.unlink()

        async def sound() -> bool:
            return await _health(server, storage) == serving and _metric(server, "poi_history_quarantined_files") == 0

        await until(sound, "nothing is in quarantine any more")
