"""What is acknowledged survives SIGKILL, torn tails, damaged files and full disks."""

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from poi.v1 import history_pb2

from mesh.errors import ResourceExhausted, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.support import unit

FACES = [unit(seed) for seed in range(20)]


def _metric(server: Service, name: str) -> float:
    with urllib.request.urlopen(server.metrics_url) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _log_files(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("detections-*.log"))


def _batches(count: int, size: int = 8, begin: int = 0) -> Iterator[history_pb2.AppendDetectionsRequest]:
    for number in range(begin, begin + count):
        yield history_pb2.AppendDetectionsRequest(
            parent=STORE,
            batch_id=number,
            detections=[detection(FACES[person], at=number / 10, object_id=str(person)) for person in range(size)],
        )


async def _append_until_killed(client: Client, server: Service, begin: int, chance: random.Random) -> dict[str, str]:
    """Streams batches, kills the server after some answers; returns what was acknowledged: detection -> appearance."""
    acknowledged: dict[str, str] = {}
    call = client.stub.AppendDetections()
    deadly = chance.randint(3, 40)

    async def send() -> None:
        for request in _batches(200, begin=begin):
            await call.write(request)

    sender = asyncio.create_task(send())
    answers = 0
    try:
        async for response in call:
            assert isinstance(response, history_pb2.AppendDetectionsResponse)
            acknowledged.update((one.detection_id, one.appearance) for one in response.stored)
            answers += 1
            if answers == deadly:
                server.kill()
    except grpc.aio.AioRpcError:
        # Whatever the client makes of it: UNAVAILABLE, or INTERNAL when it was sending at that moment.
        if answers < deadly:
            raise
    finally:
        sender.cancel()
        await asyncio.wait([sender])
    assert answers >= deadly
    return acknowledged


async def test_sigkill_loses_nothing_acknowledged_and_doubles_nothing(start: StartHistory) -> None:
    chance = random.Random(20261121)
    server = start()
    acknowledged: dict[str, str] = {}
    for round_number in range(5):
        async with Client(server.target) as client:
            acknowledged |= await _append_until_killed(client, server, round_number * 20, chance)
        server.start()

    async with Client(server.target) as client:
        # Sent again, as ingest does with all that was not acknowledged, and with some that was.
        answers = [response async for response in client.stream(list(_batches(300)))]
        kept = await client.appearances()

    again = {one.detection_id: one.appearance for answer in answers for one in answer.stored}
    assert {detection: again[detection] for detection in acknowledged} == acknowledged
    assert sum(one.detection_count for one in kept) == len(again) == 300 * 8
    assert {one.name for one in kept} == set(again.values())
    assert len(kept) == 8


async def test_a_torn_tail_is_cut_off_and_reported(client: Client, server: Service, data_dir: Path) -> None:
    once = await client.append(*next(_batches(1)).detections)
    server.kill()
    (path,) = _log_files(data_dir)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[len(whole) // 2 : -10])

    server.start()
    again = await client.append(*next(_batches(1)).detections)

    assert path.read_bytes() == whole
    assert list(again.stored) == list(once.stored)
    assert _metric(server, "poi_history_truncated_bytes_total") == len(whole) - len(whole) // 2 - 10
    assert "torn_tail_cut" in server.log_path.read_text()


@pytest.mark.parametrize("place", ["head", "payload"])
async def test_damage_in_the_middle_is_put_aside_and_the_rest_served(
    client: Client, server: Service, data_dir: Path, place: str
) -> None:
    batches = list(_batches(3))
    sizes = []
    for batch in batches:
        await client.append(*batch.detections)
        sizes.append(_log_files(data_dir)[0].stat().st_size)
    server.kill()
    (path,) = _log_files(data_dir)
    content = bytearray(path.read_bytes())
    content[sizes[0] + (5 if place == "head" else 500)] ^= 0x10
    path.write_bytes(content)

    server.start()
    kept = await client.appearances()
    quarantined = _metric(server, "poi_history_quarantined_bytes_total")
    server.restart()
    after = await client.appearances()

    assert [one.detection_count for one in kept] == [2] * 8
    assert quarantined == sizes[1] - sizes[0]
    assert sum(one.stat().st_size for one in (data_dir / "quarantine").iterdir()) == sizes[1] - sizes[0]
    assert after == kept
    assert _metric(server, "poi_history_quarantined_bytes_total") == 0, "reported once"
    # What was lost can be sent again.
    await client.append(*batches[1].detections)
    assert [one.detection_count for one in await client.appearances()] == [3] * 8


async def test_a_full_disk_refuses_batches_and_loses_nothing(client: Client, server: Service) -> None:
    few = [detection(FACES[0], at=at) for at in range(3)]
    many = [detection(FACES[0], at=10 + at / 100) for at in range(256)]  # 290 KB of log
    await client.append(*few)
    pid = _child(server)
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, hard))

    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.append(*many)
        error = from_rpc(raised.value)
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "DISK_FULL"
    (meanwhile,) = await client.appearances()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    answer = await client.append(*many)
    (kept,) = await client.appearances()
    server.kill()
    server.start()
    (after,) = await client.appearances()

    assert meanwhile.detection_count == 3
    assert len(answer.stored) == 256
    assert kept.detection_count == after.detection_count == 259


def _child(server: Service) -> int:
    """The server itself: what is started is a guard that ends it with the tests."""
    ready = next(server.data_dir.glob("*.ready.json"))
    return int(json.loads(ready.read_text())["pid"])


def _start_second(data_dir: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "history_svc"],
        env={
            **os.environ,
            "POI_HISTORY_DATA_DIR": str(data_dir),
            "POI_HISTORY_LISTEN": "127.0.0.1:0",
            "POI_HISTORY_METRICS_LISTEN": "",
            **env,
        },
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_a_second_server_on_the_same_directory_is_refused(server: Service, data_dir: Path) -> None:
    second = _start_second(data_dir)

    assert second.returncode == 2
    assert "is used by another process" in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr


async def test_the_directory_of_another_store_is_refused(client: Client, server: Service, data_dir: Path) -> None:
    await client.append(detection(FACES[0]))
    server.stop()

    second = _start_second(data_dir, POI_STORE="store-2")

    assert second.returncode == 2
    assert "of store store-1, not" in second.stderr.splitlines()[-1]


async def test_files_are_rolled_by_size(start: StartHistory, data_dir: Path) -> None:
    server = start({"POI_HISTORY_SEGMENT_BYTES": "20000"})
    async with Client(server.target) as client:
        for batch in _batches(10):
            await client.append(*batch.detections)
        kept = await client.appearances()
        server.restart()
        after = await client.appearances()

    assert len(_log_files(data_dir)) >= 4
    assert after == kept
