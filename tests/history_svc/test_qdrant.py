"""The index on Qdrant: the client's local mode behind a server, or the real one that POI_TEST_QDRANT_URL names."""

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from poi.v1 import common_pb2
from qdrant_client import grpc as wire

from history_svc.index import ExactIndex, HistoryIndex, Probes, Scope
from history_svc.qdrant.collections import connect
from history_svc.qdrant.database import Database
from history_svc.qdrant.index import QdrantIndex
from history_svc.records import Header
from history_svc.settings import Settings
from mesh.errors import FailedPrecondition, Unavailable
from tests.history_svc.conftest import QDRANT
from tests.history_svc.qdrant_grpc import QdrantServer
from tests.history_svc.test_index import DIMENSION, HistoryIndexTest, as_dict, make_faces, unit_rows

HEADER = Header("store-1", "test-model", DIMENSION)


@pytest.fixture
def qdrant() -> Iterator[QdrantServer]:
    server = QdrantServer()
    yield server
    server.close()


def index_on(url: str, header: Header = HEADER, page: int = 1000) -> QdrantIndex:
    return QdrantIndex(Database(connect(url), header), page=page, clock=lambda: 0)


@pytest.mark.timeout(240)  # local mode compares in Python
class TestQdrantIndex(HistoryIndexTest):
    """A store for each index, in a collection that goes with the tests."""

    added = 4_000
    later = 1_500

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        server = QdrantServer()
        self.url = QDRANT or server.url
        yield
        if QDRANT:
            client = connect(QDRANT)
            for name in ("poi-detections-test-model", "poi-records-test-model"):
                client.delete_collection(name)
            client.close()
        server.close()

    def make(self) -> HistoryIndex:
        return index_on(self.url, Header(f"test-{uuid.uuid4()}", HEADER.model, DIMENSION))


def test_full_answers_are_asked_for_in_parts(qdrant: QdrantServer) -> None:
    random = np.random.default_rng(4)
    faces = make_faces(random, 400, 0, people=300)
    index, exact = index_on(qdrant.url, page=7), ExactIndex(DIMENSION, threads=1)
    for one in (index, exact):
        one.add(faces)
    for probes in (Probes(unit_rows(random, 3), unit_rows(random, 2)), Probes(*[unit_rows(random, 2)] * 2)):
        found = as_dict(index.search(probes, 0.2, Scope(end_ns=700)))
        assert len(found) > 70
        assert found == pytest.approx(as_dict(exact.search(probes, 0.2, Scope(end_ns=700))), abs=1e-6)
    index.close()
    exact.close()


def test_stores_share_a_collection_and_see_only_their_own(qdrant: QdrantServer) -> None:
    random = np.random.default_rng(5)
    first, second = index_on(qdrant.url), index_on(qdrant.url, Header("store-2", HEADER.model, DIMENSION))
    faces = make_faces(random, 50, 0)
    first.add(faces)
    probes = Probes(faces.vectors, faces.vectors)
    assert (len(first), len(second)) == (50, 0)
    assert not len(second.search(probes, 0.5, Scope()).numbers)
    second.add(faces)
    second.drop_before(1 << 60)
    assert second.sweep() == 50
    assert (len(first), len(second)) == (50, 0)
    first.close()
    second.close()


def test_a_face_that_is_written_twice_is_there_once(qdrant: QdrantServer) -> None:
    index, faces = index_on(qdrant.url), make_faces(np.random.default_rng(6), 30, 0)
    index.add(faces)
    index.add(faces)
    assert len(index) == 30
    index.close()


def test_numbers_rise_whatever_the_clock_says() -> None:
    server = QdrantServer()
    times = iter([100, 50, 300])
    index = QdrantIndex(Database(connect(server.url), HEADER), clock=lambda: next(times))
    assert (index.numbers(5), index.numbers(2), index.numbers(1)) == (range(100, 105), range(105, 107), range(300, 301))
    index.close()
    server.close()


def test_aligned_faces_are_compared_with_the_template_for_them(qdrant: QdrantServer) -> None:
    faces = make_faces(np.random.default_rng(9), 3, 0)
    faces.rows["alignment"] = common_pb2.ALIGNMENT_ALIGNED
    faces.appearances[:] = [0, 1, 2]
    index = index_on(qdrant.url)
    index.add(faces)
    hits = index.search(Probes(faces.vectors[:1], faces.vectors[1:2]), 0.999, Scope())
    assert hits.appearances.tolist() == [0]
    index.close()


def test_a_collection_of_another_kind_is_refused(qdrant: QdrantServer) -> None:
    index_on(qdrant.url).close()
    with pytest.raises(FailedPrecondition, match="not one of 16 dimensions"):
        index_on(qdrant.url, Header("store-1", HEADER.model, 16))


def test_a_server_that_is_not_there_is_told_as_unavailable(free_port: int) -> None:
    with pytest.raises(Unavailable):
        index_on(f"http://127.0.0.1:{free_port}")


def test_the_collections_are_made_for_many_stores_and_little_memory(qdrant: QdrantServer) -> None:
    index_on(qdrant.url).close()
    detections, records = qdrant.created
    assert (detections.collection_name, records.collection_name) == (
        "poi-detections-test-model",
        "poi-records-test-model",
    )
    face = detections.vectors_config.params_map.map["face"]
    assert (face.size, face.distance) == (DIMENSION, wire.Distance.Dot), "the vectors are kept as they come"
    assert (detections.hnsw_config.m, detections.hnsw_config.payload_m) == (0, 16)
    assert detections.quantization_config.scalar.always_ram
    assert qdrant.indexed["store"].keyword_index_params.is_tenant
    assert qdrant.indexed["time_us"].integer_index_params.range
    assert qdrant.indexed.keys() >= {"camera", "number", "appearance_id", "kind", "version", "start_us", "end_us"}


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_of_the_url_is_sent(qdrant: QdrantServer) -> None:
    client = connect(qdrant.url.replace("//", "//:secret@"))
    assert not client.collection_exists("m")
    qdrant.client.create_collection("m", {})
    client.get_collection("m")
    client.close()
    assert qdrant.headers["api-key"] == "secret"


@pytest.mark.parametrize("url", ["http://qdrant", "http://127.0.0.1:6334", "https://:key@qdrant.example.com:6334/", ""])
def test_urls_that_can_be_set(url: str) -> None:
    assert Settings(qdrant_url=url).qdrant_url == url
    if url:
        connect(url).close()


@pytest.mark.parametrize(
    "url", ["qdrant:6334", "grpc://qdrant", "http://", "http://user:key@qdrant", "http://a b", "http://a:70000"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"HOST|Port"):
        Settings(qdrant_url=url)
