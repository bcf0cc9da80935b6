"""Retention: what is too old is neither taken nor found, and its files go; what is not stays."""

import asyncio
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from poi.v1 import common_pb2, history_pb2

from mesh.errors import NotFound, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.history_svc.test_frames import jpeg, upload
from tests.support import embedding, unit, until

KEPT_SECONDS = 300.0
SOON = 10.0
"""Seconds until what is to go is too old: it is taken, and seen, before."""


def _ago(seconds: float, object_id: str) -> common_pb2.Detection:
    one = detection(unit(1), at=seconds, object_id=object_id)
    one.detect_time.FromNanoseconds(time.time_ns() - round(seconds * 1e9))
    return one


def _files(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("detections-*.log"))


def _oldest(server: Service) -> float:
    """The time of the oldest detection on disk, in s since 1970, as the server's metrics say."""
    with urllib.request.urlopen(server.metrics_url) as response:
        lines = response.read().decode().splitlines()
    (found,) = [line for line in lines if line.startswith("poi_history_oldest_timestamp_seconds ")]
    return float(found.split()[1])


async def test_old_detections_appearances_files_and_frames_go(start: StartHistory, data_dir: Path) -> None:
    server = start(
        {
            "POI_HISTORY_RETENTION_DAYS": str(KEPT_SECONDS / 86_400),
            "POI_HISTORY_SWEEP_SECONDS": "0.2",
            "POI_HISTORY_SEGMENT_BYTES": "4096",
        }
    )
    async with Client(server.target) as client:
        frame = upload(jpeg(1))
        frame.capture_time.CopyFrom(_ago(KEPT_SECONDS - SOON, "").detect_time)
        old = [_ago(KEPT_SECONDS - SOON + number / 100, f"old{number}") for number in range(8)]
        answer = await client.append(*old, frames=[frame])
        assert len(await client.appearances()) == 8
        old_files = _files(data_dir)
        assert old_files

        await until(lambda: not any(path.exists() for path in old_files))
        await client.append(_ago(0, "new"))
        search = history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(unit(1)))
        found = await client.stub.SearchAppearances(search)
        listed = await client.appearances()
        refused = await client.append(*old)
        assert await asyncio.to_thread(_oldest, server) >= time.time() - KEPT_SECONDS - 1
        with pytest.raises(grpc.aio.AioRpcError) as no_frame:
            await client.stub.GetFrame(history_pb2.GetFrameRequest(name=answer.frames[0])).read()
        with pytest.raises(grpc.aio.AioRpcError) as no_appearance:
            await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=answer.stored[0].appearance))

        assert [hit.appearance.object_id for hit in found.hits] == [one.object_id for one in listed] == ["new"]
        assert len(refused.errors) == 8
        assert isinstance(from_rpc(no_frame.value), NotFound)
        assert isinstance(from_rpc(no_appearance.value), NotFound)
        # Time has gone on: what is there now was there in time, too.
        server.restart()
        assert {one.object_id for one in await client.appearances()} <= {"new"}


@pytest.mark.both_stores
async def test_a_restart_with_a_shorter_retention_shows_less(start: StartHistory) -> None:
    server = start()
    async with Client(server.target) as client:
        await client.append(_ago(600, "old"), _ago(500, "new"))
        server.stop()
        server.env["POI_HISTORY_RETENTION_DAYS"] = str(550 / 86_400)
        server.start()

        search = history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(unit(1)))
        hits = (await client.stub.SearchAppearances(search)).hits
        listed = await client.appearances()

    assert [hit.appearance.object_id for hit in hits] == [one.object_id for one in listed] == ["new"]
