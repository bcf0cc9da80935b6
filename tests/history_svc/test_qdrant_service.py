"""The service with its history in Qdrant, through its own contract: crashes, replicas, retention and erasure."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from poi.v1 import common_pb2, erasure_pb2, erasure_pb2_grpc, history_pb2

from history_svc.qdrant.states import read_track
from mesh import channels
from mesh.errors import NotFound, Unavailable, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.history_svc.qdrant_grpc import QdrantServer
from tests.history_svc.test_frames import jpeg, upload
from tests.support import embedding, similar, unit, until

PEOPLE = [unit(seed) for seed in range(1, 7)]
DETECTIONS = "poi-detections-face-reidentification-retail-0095"
RECORDS = "poi-records-face-reidentification-retail-0095"


@pytest.fixture
def qdrant() -> Iterator[QdrantServer]:
    server = QdrantServer()
    yield server
    server.close()


@pytest.fixture
def kept_in(qdrant: QdrantServer, data_dir: Path) -> Mapping[str, str]:
    """In Qdrant, whatever the others do."""
    return {"POI_HISTORY_QDRANT_URL": qdrant.url, "POI_HISTORY_FRAMES_URL": f"file://{data_dir}/frames"}


def at(second: float) -> list[common_pb2.Detection]:
    """One of each person, with a face, and one without."""
    return [
        *(
            detection(similar(face, 0.9, round(1000 + second * 100 + person)), at=second, object_id=str(person))
            for person, face in enumerate(PEOPLE)
        ),
        detection(at=second, object_id="nobody"),
    ]


async def search(client: Client, person: int) -> list[tuple[str, float]]:
    request = history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(PEOPLE[person]))
    response = await client.stub.SearchAppearances(request)
    return [(hit.appearance.name, hit.similarity) for hit in response.hits]


async def counts(client: Client) -> dict[str, list[tuple[int, int]]]:
    """(detections, faces) of each appearance, by object."""
    found: dict[str, list[tuple[int, int]]] = {}
    for one in await client.appearances():
        found.setdefault(one.object_id, []).append((one.detection_count, one.face_count))
    return found


def once(seconds: int) -> dict[str, list[tuple[int, int]]]:
    """What `at` of so many seconds must come to."""
    return {str(person): [(seconds, seconds)] for person in range(len(PEOPLE))} | {"nobody": [(seconds, 0)]}


async def test_nothing_is_in_the_process_nor_in_its_directory(
    server: Service, qdrant: QdrantServer, data_dir: Path
) -> None:
    async with Client(server.target) as client:
        for second in range(5):
            assert len((await client.append(*at(second))).stored) == 7
        before = [await search(client, person) for person in range(len(PEOPLE))]
        assert all(len(hits) == 1 and hits[0][1] > 0.85 for hits in before)
    server.kill()
    server.start()
    async with Client(server.target) as client:
        assert [await search(client, person) for person in range(len(PEOPLE))] == before
        assert await counts(client) == once(5)
    assert qdrant.client.count(DETECTIONS).count == 35
    assert set(os.listdir(data_dir)) <= {"frames"}


@pytest.mark.parametrize("cut", ["tracks", "appearances", "detections"])
async def test_a_write_that_is_cut_off_is_completed_by_a_repeat(
    server: Service, qdrant: QdrantServer, cut: str
) -> None:
    """Each of its three requests is the one that never came: nothing is lost, and nothing is counted twice."""
    async with Client(server.target) as client:
        await client.append(*at(0))
        qdrant.before_upsert = lambda request: _kind(request) != cut
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.append(*at(1))
        assert isinstance(from_rpc(raised.value), Unavailable)
        qdrant.before_upsert = None
        server.kill()
        server.start()
    async with Client(server.target) as client:
        # Some of it comes again, then something new, then the rest.
        first = await client.append(*at(1)[:3])
        await client.append(*at(2))
        second = await client.append(*at(1))
        assert list(second.stored)[:3] == list(first.stored)
        assert await counts(client) == once(3)
        assert qdrant.client.count(DETECTIONS).count == 21
        for person in range(len(PEOPLE)):
            ((name, _),) = await search(client, person)
            assert (await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=name))).detection_count == 3


async def test_two_replicas_that_write_the_same_tracks_agree(start: StartHistory, qdrant: QdrantServer) -> None:
    """Every person is seen by both at once; then one is killed, and the other has everything."""
    first, second = start(name="first"), start(name="second")
    async with Client(first.target) as one, Client(second.target) as other:
        for pair in range(0, 16, 2):
            await asyncio.gather(one.append(*at(pair)), other.append(*at(pair + 1), *at(pair)[:2]))
        assert await counts(one) == await counts(other) == once(16), "no appearance is there twice"
        assert qdrant.client.count(DETECTIONS).count == 16 * 7

        killed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def kill(request: object) -> bool:
            if _kind(request) != "appearances":
                return True
            first.kill()
            loop.call_soon_threadsafe(killed.set)
            return False

        qdrant.before_upsert = kill  # between its tracks and its appearances
        dying = asyncio.create_task(one.append(*at(16)))
        await killed.wait()
        qdrant.before_upsert = None
        dying.cancel()
        await other.append(*at(17))
        await other.append(*at(16))
        assert await counts(other) == once(18)
        hits = [await search(other, person) for person in range(len(PEOPLE))]
        first.start()
        async with Client(first.target) as again:
            assert await counts(again) == once(18)
            assert [await search(again, person) for person in range(len(PEOPLE))] == hits
    assert qdrant.client.count(DETECTIONS).count == 18 * 7


async def test_a_write_that_lost_the_race_is_decided_again(server: Service, qdrant: QdrantServer) -> None:
    """Somebody writes the track between our reading it and our writing it."""
    async with Client(server.target) as client:
        await client.append(*at(0))
        raced: list[str] = []

        def interfere(request: object) -> bool:
            if _kind(request) == "tracks" and not raced:
                (point, *_), _ = qdrant.client.scroll(RECORDS, limit=1000)
                for point in qdrant.client.scroll(RECORDS, limit=1000)[0]:
                    if (point.payload or {})["kind"] == "track":
                        raced.append(str(point.id))
                        qdrant.client.set_payload(RECORDS, {"version": "another"}, [point.id])
            return True

        qdrant.before_upsert = interfere
        await client.append(*at(1))
        assert len(raced) == 7
        assert await counts(client) == once(2)
        server.wait_for_metric("poi_history_conflicts_total", 1.0)


async def test_without_qdrant_nothing_is_acknowledged_and_searches_say_so(
    server: Service, qdrant: QdrantServer
) -> None:
    async with Client(server.target) as client:
        await client.append(*at(0))
        qdrant.down = True
        for call in (client.append(*at(1)), search(client, 0), client.appearances()):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asyncio.wait_for(call, 60)
            assert isinstance(from_rpc(raised.value), Unavailable)
        qdrant.down = False
        await client.append(*at(1))
        assert await counts(client) == once(2)


async def test_old_detections_appearances_and_tracks_are_removed(start: StartHistory, qdrant: QdrantServer) -> None:
    server = start({"POI_HISTORY_SWEEP_SECONDS": "0.2"})
    ago = time.time_ns() - 600 * 10**9
    async with Client(server.target) as client:
        old = [detection(unit(1), object_id="old"), detection(object_id="old2")]
        for one in old:
            one.detect_time.FromNanoseconds(ago)
        (frame,) = (await client.append(*old)).stored[:1]
        picture = upload(jpeg(1), frame.appearance)
        picture.capture_time.FromNanoseconds(ago)
        await client.append(frames=[picture])
        assert qdrant.client.count(DETECTIONS).count == 2
        server.stop()
        server.env["POI_HISTORY_RETENTION_DAYS"] = str(300 / 86_400)
        server.start()
        left = qdrant.client.count
        await until(lambda: not left(DETECTIONS).count and not left(RECORDS).count, "all of it is gone")
        assert not await client.appearances()


async def test_the_eraser_takes_frames_of_others_that_show_the_person(start: StartHistory, data_dir: Path) -> None:
    server = start(name="first")
    async with Client(server.target) as one, channels.connect(server.target) as channel:
        await one.append(*at(0), *at(1))
        erased, kept = [found.name for found in await one.appearances() if found.object_id in ("1", "2")]
        both, alone = upload(jpeg(1), erased, kept), upload(jpeg(2), kept)
        frames = (await one.append(frames=[both, alone])).frames
        traces: erasure_pb2_grpc.TraceServiceAsyncStub = erasure_pb2_grpc.TraceServiceStub(channel)
        subject = erasure_pb2.TraceSubject(appearances=[erased], frames=[frames[1]])
        request = erasure_pb2.EraseTracesRequest(
            parent=STORE, subject=subject, erasure=f"{STORE}/personErasures/{'1' * 32}"
        )

        found = await traces.FindTraces(erasure_pb2.FindTracesRequest(parent=STORE, subject=subject))
        assert {one.kind: one.count for one in found.traces}["frames and pictures"] == 2
        for _ in range(2):  # a repeat is harmless
            assert not (await traces.EraseTraces(request)).obstacles

        left = await one.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=kept))
        assert not left.frames
        assert list((data_dir / "frames").rglob("*.jpg")) == []
        again = await traces.FindTraces(erasure_pb2.FindTracesRequest(parent=STORE, subject=subject))
        assert not again.traces


async def test_what_is_erased_is_gone_everywhere_and_does_not_come_back(
    start: StartHistory, qdrant: QdrantServer, data_dir: Path
) -> None:
    first, second = start(name="first"), start(name="second")
    async with Client(first.target) as one, Client(second.target) as other:
        await one.append(*at(0), *at(1))
        erased, kept = [found.name for found in await one.appearances() if found.object_id in ("1", "2")]
        if not erased.endswith(at(0)[1].detection_id):
            erased, kept = kept, erased
        both, alone = upload(jpeg(1), erased, kept), upload(jpeg(2), kept)
        frames = (await one.append(frames=[both, alone])).frames
        request = history_pb2.EraseAppearancesRequest(
            parent=STORE, appearances=history_pb2.AppearanceNames(names=[erased]), request_id="please"
        )

        # It is cut off in the middle, and asked for again somewhere else.
        qdrant.before_upsert = lambda wanted: _kind(wanted) != "detections"
        with pytest.raises(grpc.aio.AioRpcError):
            await one.stub.EraseAppearances(request)
        qdrant.before_upsert = None
        receipt = (await other.stub.EraseAppearances(request)).erasure
        again = (await one.stub.EraseAppearances(request)).erasure

        assert (receipt.appearance_count, receipt.detection_count, receipt.face_count, receipt.frame_count) == (
            1,
            2,
            2,
            1,
        )
        assert receipt.HasField("complete_time")
        assert again == receipt == await one.stub.GetErasure(history_pb2.GetErasureRequest(name=receipt.name))
        for client in (one, other):
            await client.append(*at(0), *at(1))  # sent again
            assert "1" not in await counts(client)
            assert not await search(client, 1)
            with pytest.raises(grpc.aio.AioRpcError) as no_appearance:
                await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=erased))
            with pytest.raises(grpc.aio.AioRpcError) as no_frame:
                await client.stub.GetFrame(history_pb2.GetFrameRequest(name=frames[0])).read()
            assert isinstance(from_rpc(no_appearance.value), NotFound)
            assert isinstance(from_rpc(no_frame.value), NotFound)
            left = await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=kept))
            assert [frame.name for frame in left.frames] == [frames[1]]
        assert len(list((data_dir / "frames").rglob("*.jpg"))) == 1
        records, _ = qdrant.client.scroll(RECORDS, limit=1000)
        assert not any(_mentions(record.payload or {}, erased.rpartition("/")[2]) for record in records)
        points, _ = qdrant.client.scroll(DETECTIONS, limit=1000, with_vectors=True)
        graves = [point for point in points if (point.payload or {}).get("erased")]
        assert len(points) == 14
        assert [(point.vector or {}, "row" in (point.payload or {})) for point in graves] == [({}, False)] * 2
        # The person is still there: a new appearance.
        await other.append(*at(2))
        assert (await counts(one))["1"] == [(1, 1)]


def test_frames_must_be_where_every_replica_finds_them(start: StartHistory, free_port: int) -> None:
    with pytest.raises(RuntimeError, match="POI_HISTORY_FRAMES_URL: is needed with POI_HISTORY_QDRANT_URL"):
        start({"POI_HISTORY_QDRANT_URL": f"http://127.0.0.1:{free_port}", "POI_HISTORY_FRAMES_URL": ""})


def _kind(request: object) -> str:
    """What a request writes."""
    point = request.points[0]  # type: ignore[attr-defined]
    if request.collection_name == DETECTIONS:  # type: ignore[attr-defined]
        return "detections"
    kind: str = point.payload["kind"].string_value
    return f"{kind}s"


def _mentions(payload: Mapping[str, object], appearance: str) -> bool:
    if payload["kind"] == "track":
        track = read_track(dict(payload))
        return bytes.fromhex(appearance) in {*track.appearances, *track.pending.values()}
    return payload["kind"] == "appearance" and appearance in str(payload["state"])
