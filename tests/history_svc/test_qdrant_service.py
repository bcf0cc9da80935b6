"""The service with its faces in Qdrant, over gRPC, through its own contract."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from history_svc.qdrant_collection import connect
from poi.v1 import history_pb2
from qdrant_client import grpc as wire

from history_svc.index import HistoryIndex
from history_svc.qdrant import open_index
from history_svc.records import Header
from mesh.errors import Unavailable, from_rpc
from mesh.local import Service
from tests.history_svc.client import STORE, Client, detection
from tests.history_svc.conftest import StartHistory
from tests.history_svc.qdrant_grpc import QdrantServer
from tests.history_svc.test_qdrant import pytestmark as pytestmark
from tests.support import embedding, similar, unit

PEOPLE = [unit(seed) for seed in range(6)]


@pytest.fixture
def qdrant() -> Iterator[QdrantServer]:
    server = QdrantServer()
    yield server
    server.close()


@pytest.fixture
def with_qdrant(start: StartHistory, qdrant: QdrantServer) -> Service:
    return start({"POI_HISTORY_QDRANT_URL": qdrant.url})


async def append(client: Client, first: int = 0, count: int = 5) -> None:
    for at in range(first, first + count):
        seen = [
            detection(similar(face, 0.9, 1000 + at * 10 + person), at=float(at), object_id=str(person))
            for person, face in enumerate(PEOPLE)
        ]
        assert len((await client.append(*seen)).stored) == len(PEOPLE)


async def search(client: Client, person: int) -> list[tuple[str, float]]:
    request = history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(PEOPLE[person]))
    response = await client.stub.SearchAppearances(request)
    return [(hit.appearance.name, hit.similarity) for hit in response.hits]


async def test_faces_are_found_before_and_after_a_kill(with_qdrant: Service, qdrant: QdrantServer) -> None:
    async with Client(with_qdrant.target) as client:
        await append(client)
        before = [await search(client, person) for person in range(len(PEOPLE))]
        assert all(len(hits) == 1 and hits[0][1] > 0.85 for hits in before)
        kept = {one.name: one.object_id for one in await client.appearances()}
        assert [kept[hits[0][0]] for hits in before] == [str(person) for person in range(len(PEOPLE))]
        with_qdrant.wait_for_metric("poi_history_qdrant_waiting", 0.0)
    (collection,) = qdrant.created
    assert collection.collection_name == "poi-faces-face-reidentification-retail-0095"
    assert qdrant.client.count(collection.collection_name).count == 5 * len(PEOPLE)

    with_qdrant.kill()
    with_qdrant.start()

    async with Client(with_qdrant.target) as client:
        assert [await search(client, person) for person in range(len(PEOPLE))] == before
        with_qdrant.wait_for_metric("poi_history_qdrant_waiting", 0.0)
    assert qdrant.client.count(collection.collection_name).count == 5 * len(PEOPLE), "nothing is there twice"


async def test_without_qdrant_appends_go_on_and_searches_say_so(with_qdrant: Service, qdrant: QdrantServer) -> None:
    async with Client(with_qdrant.target) as client:
        await append(client)
        with_qdrant.wait_for_metric("poi_history_qdrant_waiting", 0.0)
        qdrant.down = True
        await append(client, first=5)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.stub.SearchAppearances(
                history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(PEOPLE[0])), timeout=3
            )
        assert isinstance(from_rpc(raised.value), Unavailable)

        with_qdrant.kill()
        qdrant.down = False
        with_qdrant.start()
    async with Client(with_qdrant.target) as client:
        with_qdrant.wait_for_metric("poi_history_qdrant_waiting", 0.0)
        assert len(await search(client, 0)) == 1
    assert qdrant.client.count(qdrant.created[0].collection_name).count == 10 * len(PEOPLE)


async def test_a_store_is_moved_while_it_runs(start: StartHistory, qdrant: QdrantServer) -> None:
    service = start()
    async with Client(service.target) as client:
        await append(client)
        moved = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "history_svc", "migrate"],
            env={**service.env, "POI_HISTORY_QDRANT_URL": qdrant.url},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert moved.returncode == 0, moved.stdout + moved.stderr
        assert "30 faces at 1 cameras: as many as in the log" in moved.stdout
        assert "20 searches: 20 of 20 appearances, the same similarities" in moved.stdout
        await append(client, first=5)
        before = [await search(client, person) for person in range(len(PEOPLE))]
    service.stop()

    service.env["POI_HISTORY_QDRANT_URL"] = qdrant.url
    service.start()
    async with Client(service.target) as client:
        service.wait_for_metric("poi_history_qdrant_waiting", 0.0)
        after = [await search(client, person) for person in range(len(PEOPLE))]
    assert [[name for name, _ in hits] for hits in after] == [[name for name, _ in hits] for hits in before]
    assert qdrant.client.count(qdrant.created[0].collection_name).count == 10 * len(PEOPLE)


def test_the_collection_is_made_for_many_stores_and_little_memory(qdrant: QdrantServer) -> None:
    index: HistoryIndex = open_index(qdrant.url, Header("store-1", "m", 8), exact=False)
    index.close()
    (created,) = qdrant.created
    assert created.vectors_config.params.distance == wire.Distance.Dot, "the vectors are kept as they come"
    assert (created.hnsw_config.m, created.hnsw_config.payload_m) == (0, 16)
    assert created.quantization_config.scalar.always_ram
    assert qdrant.indexed["store"].keyword_index_params.is_tenant
    assert qdrant.indexed["time_us"].integer_index_params.range
    assert qdrant.indexed.keys() >= {"camera", "number", "appearance", "appearance_id", "aligned"}


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_of_the_url_is_sent(qdrant: QdrantServer) -> None:
    client = connect(qdrant.url.replace("//", "//:secret@"))
    assert not client.collection_exists("m")
    qdrant.client.create_collection("m", {})
    client.get_collection("m")
    client.close()
    assert qdrant.headers["api-key"] == "secret"
