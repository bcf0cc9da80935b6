"""Each server starts only with settings that are right, and ends in good order while clients are connected."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    match_pb2,
    match_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)

from mesh.errors import Draining, from_rpc
from mesh.local import MODULES, USUAL
from tests.e2e.store import Store

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    ("embed", "POI_EMBED_STREAM_WINDOW", "many"),
    ("embed", "POI_MODELS_DIR", "/nonexistent"),
    ("match", "POI_MATCH_DEFAULT_THRESHOLD", "7"),
    ("match", "POI_REDIS_URL", "localhost:6379"),
    ("history", "POI_HISTORY_DATA_DIR", "/dev/null/data"),
    ("history", "POI_STORE", "a store"),
    ("region", "POI_REGION_SILENCE_SECONDS", "0"),
    ("region", "POI_REGION_REDIS_URL", "http://127.0.0.1"),
    ("alert", "POI_ALERT_RETENTION_DAYS", "-1"),
    ("alert", "POI_LOG_LEVEL", "chatty"),
    ("ingest", "POI_MQTT_URL", "127.0.0.1:1883"),
    ("ingest", "POI_INGEST_ALIGNED_CAMERAS", "Camera_01"),
]


@pytest.mark.parametrize(("name", "variable", "value"), WRONG, ids=lambda value: str(value))
def test_a_wrong_setting_is_one_clear_line(name: str, variable: str, value: str, tmp_path: Path) -> None:
    status, error = refuse_to_start(name, {variable: value}, tmp_path)

    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith(f"{MODULES[name]}: ")
    assert variable in error or value in error


@pytest.mark.parametrize("name", MODULES)
def test_a_port_that_is_taken_is_one_clear_line(name: str, tmp_path: Path, models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {f"POI_{name.upper()}_LISTEN": address, "POI_MODELS_DIR": str(models_dir)}
        status, error = refuse_to_start(name, env, tmp_path)

    assert status == 2
    # A thread that is still at work may log something after it.
    (line,) = (one for one in error.splitlines() if not one.startswith("{"))
    logged = [json.loads(one)["level"] for one in error.splitlines() if one != line]
    assert "error" not in logged
    assert line.startswith(f"{MODULES[name]}: ")
    assert f"POI_{name.upper()}_LISTEN" in line
    assert address in line


@pytest.mark.parametrize("name", USUAL)
async def test_sigterm_ends_a_server_in_good_order_while_streams_are_open(store: Store, name: str) -> None:
    service = store.mesh.services[name]
    logged = len(service.log_path.read_bytes())
    async with grpc.aio.insecure_channel(service.target) as channel:
        states = aiter(_watch_health(channel))
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        streams = [open_call(channel, store) for open_call in STREAMS.get(name, [])]
        for stream in streams:
            await anext(stream)

        stopping = asyncio.create_task(asyncio.to_thread(service.stop))
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for _ in stream:
                    pass
            assert isinstance(from_rpc(ended.value), Draining)
        assert await stopping == 0

    lines = service.log_path.read_bytes()[logged:].decode().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry for entry in entries if entry["level"] == "error"] == []
    assert entries[-1]["event"] == "stopped"


def refuse_to_start(name: str, env: dict[str, str], data_dir: Path) -> tuple[int, str]:
    """Runs a server that cannot start; its status and what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", MODULES[name]],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "POI_HISTORY_DATA_DIR": str(data_dir),
            "POI_METRICS_LISTEN": "127.0.0.1:0",
            **env,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


Open = Callable[[grpc.aio.Channel, Store], AsyncIterator[Any]]


async def _one_request(request: Any) -> AsyncIterator[Any]:
    yield request
    await asyncio.Event().wait()


def _watch_health(channel: grpc.aio.Channel) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    return stub.Watch(health_pb2.HealthCheckRequest())


def _parent(store: Store) -> str:
    return f"stores/{store.store}"


def _stream_faces(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    request = embedding_pb2.StreamFacesRequest(parent=_parent(store), frame_id="1", image=store.photos["woman"][0])
    stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    return aiter(stub.StreamFaces(_one_request(request)))


def _match_detections(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    stub: match_pb2_grpc.MatchServiceAsyncStub = match_pb2_grpc.MatchServiceStub(channel)
    return aiter(
        stub.MatchDetections(_one_request(match_pb2.MatchDetectionsRequest(parent=_parent(store), batch_id=1)))
    )


def _append_detections(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    request = history_pb2.AppendDetectionsRequest(parent=_parent(store), batch_id=1)
    stub: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(channel)
    return aiter(stub.AppendDetections(_one_request(request)))


def _record_scene_updates(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    request = region_pb2.RecordSceneUpdatesRequest(parent=_parent(store), batch_id=1)
    stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)
    return aiter(stub.RecordSceneUpdates(_one_request(request)))


def _watch_visits(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)
    return aiter(stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=_parent(store))))


def _stream_alerts(channel: grpc.aio.Channel, store: Store) -> AsyncIterator[Any]:
    stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(channel)
    return aiter(stub.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=_parent(store))))


STREAMS: dict[str, list[Open]] = {
    "embed": [_stream_faces],
    "match": [_match_detections],
    "history": [_append_detections],
    "region": [_record_scene_updates, _watch_visits],
    "alert": [_stream_alerts, _stream_alerts],
}
"""The long streams of each service; all are opened."""
