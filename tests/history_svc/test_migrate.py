"""A history in files is copied to Qdrant and an object store, and it is noticed when it is not all there."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import grpc
import pytest
from poi.v1 import history_pb2
from qdrant_client import models

from history_svc.appearances import Rules
from history_svc.frames import FrameStore
from history_svc.index import Hits, Probes, Scope
from history_svc.qdrant.collections import connect
from history_svc.qdrant.database import Database
from history_svc.qdrant.index import QdrantIndex
from history_svc.qdrant.migration import Migration
from history_svc.qdrant.source import Incomplete, Part, Source
from history_svc.records import Header
from history_svc.replay import OtherData
from history_svc.seam import Seam
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import NotFound, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client
from tests.history_svc.conftest import StartHistory
from tests.history_svc.qdrant_grpc import QdrantServer
from tests.history_svc.test_frames import jpeg, upload
from tests.history_svc.test_qdrant_service import DETECTIONS, PEOPLE, RECORDS, at, search

HEADER = Header("store-1", FACE_MODEL, DIMENSIONS[FACE_MODEL])
SMALL = {"POI_HISTORY_SEAL_FACES": "36", "POI_HISTORY_INDEX_EVERY_SECONDS": "0"}


@pytest.fixture
def qdrant() -> Iterator[QdrantServer]:
    server = QdrantServer()
    yield server
    server.close()


def migrate(service: Service, qdrant: QdrantServer, frames: Path) -> subprocess.CompletedProcess[str]:
    """The command, with the settings of the service and those of the new place."""
    new = {"POI_HISTORY_QDRANT_URL": qdrant.url, "POI_HISTORY_FRAMES_URL": f"file://{frames}"}
    command = [sys.executable, "-m", "history_svc", "migrate"]
    return subprocess.run(command, env={**service.env, **new}, capture_output=True, text=True, timeout=120)


async def seen(client: Client) -> list[object]:
    """All that a client can see but the names of numbers."""
    appearances = await client.appearances()
    searches = [await search(client, person) for person in range(len(PEOPLE))]
    return [
        [one.SerializeToString(deterministic=True) for one in appearances],
        [[(name, round(similarity, 3)) for name, similarity in hits] for hits in searches],
        [await _image(client, frame.name) for one in appearances for frame in one.frames],
    ]


async def _image(client: Client, name: str) -> bytes:
    request = history_pb2.GetFrameRequest(name=name)
    return b"".join([part.data async for part in client.stub.GetFrame(request)])


async def test_a_store_is_moved_while_it_runs(start: StartHistory, qdrant: QdrantServer, tmp_path: Path) -> None:
    """Sealed segments and the log, appearances that go on over both, frames, and what was erased."""
    frames = tmp_path / "frames elsewhere"
    service = start(SMALL)
    async with Client(service.target) as client:
        for second in range(8):
            await client.append(*at(second))
        names = {one.object_id: one.name for one in await client.appearances()}
        await client.append(frames=[upload(jpeg(1), names["1"]), upload(jpeg(2), names["2"], names["3"])])
        erase = history_pb2.EraseAppearancesRequest(
            parent=STORE, appearances=history_pb2.AppearanceNames(names=[names["0"]]), request_id="please"
        )
        receipt = (await client.stub.EraseAppearances(erase)).erasure
        assert list((Path(service.env["POI_HISTORY_DATA_DIR"]) / "segments").iterdir()), (
            "an erasure seals what there is"
        )
        await client.append(*at(8))
        first = migrate(service, qdrant, frames)
        assert first.returncode == 0, first.stdout + first.stderr
        await client.append(*at(9))
        await client.append(frames=[upload(jpeg(3), names["1"], at=9)])
        before = await seen(client)
        service.stop()

    rest = migrate(service, qdrant, frames)
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "62 detections in files, 7 sent" in rest.stdout, "those of the last second: 10 x 7 less 8 erased"
    assert "62 detections at 1 cameras: as many as in files" in rest.stdout
    assert "7 appearances, 1 images of frames sent" in rest.stdout
    assert "7 appearances: the same as in files" in rest.stdout
    assert "appearances, the same similarities" in rest.stdout
    service.env |= {"POI_HISTORY_QDRANT_URL": qdrant.url, "POI_HISTORY_FRAMES_URL": f"file://{frames}"}
    service.start()
    async with Client(service.target) as client:
        assert await seen(client) == before
        # What was stored is known, what was erased stays away, and what goes on is not begun again.
        count = len(await client.appearances())
        await client.append(*at(0), *at(9), *at(10))
        assert len(await client.appearances()) == count
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=names["0"]))
        assert isinstance(from_rpc(gone.value), NotFound)
        known = await client.stub.GetErasure(history_pb2.GetErasureRequest(name=receipt.name))
        assert known == receipt
        (nobody,) = [one for one in await client.appearances() if one.object_id == "nobody"]
        assert nobody.detection_count == 11
    refused = migrate(service, qdrant, frames)
    assert refused.returncode == 1
    assert "somebody appends to this store in Qdrant already" in refused.stdout


async def test_a_copy_that_was_interrupted_goes_on(start: StartHistory, qdrant: QdrantServer, tmp_path: Path) -> None:
    service = start(SMALL)
    async with Client(service.target) as client:
        for second in range(20):
            await client.append(*at(second))
    service.stop()
    writes: list[object] = []

    def fail(request: object) -> bool:
        writes.append(request)
        return len(writes) != 3

    qdrant.before_upsert = fail
    assert migrate(service, qdrant, tmp_path / "frames").returncode == 1
    qdrant.before_upsert = None
    there = qdrant.client.count(DETECTIONS).count
    assert 0 < there < 140
    done = migrate(service, qdrant, tmp_path / "frames")
    assert done.returncode == 0, done.stdout
    assert f"140 detections in files, {140 - there} sent" in done.stdout
    assert qdrant.client.count(DETECTIONS).count == 140


@pytest.fixture
async def copied(start: StartHistory, data_dir: Path, qdrant: QdrantServer, tmp_path: Path) -> AsyncIterator[Migration]:
    """A copy that was made."""
    service = start()
    async with Client(service.target) as client:
        for second in range(4):
            await client.append(*at(second))
    service.stop()
    floor = time.time_ns() - 24 * 3600 * 1_000_000_000
    source = Source(data_dir, HEADER, Rules(10**10, 0.2), floor, tmp_path / "scratch")
    frames = FrameStore.open("", tmp_path / "frames", Seam())
    database = Database(connect(qdrant.url), HEADER)
    migration = Migration(source, database, None, frames, lambda line: None, exact=False)
    await asyncio.to_thread(migration.copy, _silent, everything=False)
    migration.check(_silent, 0.45, floor)
    yield migration
    database.close()
    source.close()


def _silent(what: str, parts: Iterable[Part], total: int) -> Iterable[Part]:
    return parts


async def test_a_missing_detection_is_noticed(copied: Migration, qdrant: QdrantServer) -> None:
    points, _ = qdrant.client.scroll(DETECTIONS, limit=2)
    qdrant.client.delete(DETECTIONS, [point.id for point in points])
    with pytest.raises(Incomplete, match="Qdrant has 26 detections of 28, others at 1 cameras"):
        copied.check(_silent, 0.45, 0)


async def test_another_appearance_is_noticed(copied: Migration, qdrant: QdrantServer) -> None:
    kind = models.FieldCondition(key="kind", match=models.MatchValue(value="appearance"))
    points, _ = qdrant.client.scroll(RECORDS, models.Filter(must=[kind]), limit=1)
    qdrant.client.delete(RECORDS, [points[0].id])
    with pytest.raises(Incomplete, match="1 of 7 appearances are not as in files"):
        copied.check(_silent, 0.45, 0)


async def test_searches_that_do_not_find_all_are_noticed(copied: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    search = QdrantIndex.search

    def a_little(self: QdrantIndex, probes: Probes, least: float, scope: Scope) -> Hits:
        return search(self, probes, 0.99999, scope)

    monkeypatch.setattr(QdrantIndex, "search", a_little)
    with pytest.raises(Incomplete, match="20 searches find"):
        copied.check(_silent, 0.1, 0)


async def test_another_stores_history_is_refused(copied: Migration, data_dir: Path, tmp_path: Path) -> None:
    other = Header("store-2", HEADER.model, HEADER.dimension)
    with pytest.raises(OtherData, match="store-1"):
        Source(data_dir, other, Rules(10**10, 0.2), 0, tmp_path / "another")


@pytest.mark.parametrize(
    ("url", "frames", "why"),
    [
        ("", "file:///nowhere", "QDRANT_URL: says where to, and is empty"),
        ("http://127.0.0.1:{port}", "", "FRAMES_URL: says where to, and is empty"),
        ("http://127.0.0.1:{port}", "file:///nowhere", "QDRANT_URL: the vector database did not"),
    ],
)
def test_the_command_says_what_is_wrong(url: str, frames: str, why: str, free_port: int, tmp_path: Path) -> None:
    environment = {
        "POI_HISTORY_QDRANT_URL": url.format(port=free_port),
        "POI_HISTORY_FRAMES_URL": frames,
        "POI_HISTORY_DATA_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "history_svc", "migrate"], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("history_svc: POI_HISTORY_" + why)
