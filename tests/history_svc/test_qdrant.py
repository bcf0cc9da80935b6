"""The index on Qdrant: in the client's local mode always, on a server where POI_TEST_QDRANT_URL names one."""

import functools
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from history_svc.qdrant_collection import connect
from history_svc.qdrant_points import BATCH
from poi.v1 import common_pb2
from qdrant_client import QdrantClient
from qdrant_client.local import payload_value_extractor
from qdrant_client.local.json_path_parser import parse_json_path

from history_svc.index import ExactIndex, Faces, HistoryIndex, Probes, Scope
from history_svc.qdrant import QdrantIndex, open_index, open_local
from history_svc.records import Header
from history_svc.settings import Settings
from mesh.errors import FailedPrecondition, Unavailable
from tests.history_svc.test_index import DIMENSION, HistoryIndexTest, as_dict, make_faces, unit_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]
SERVER = os.environ.get("POI_TEST_QDRANT_URL", "")
HEADER = Header("store-1", "test-model", DIMENSION)


def local(client: QdrantClient | None = None, header: Header = HEADER, page: int = 1000) -> QdrantIndex:
    return open_local(client or QdrantClient(":memory:"), header, turn=threading.Lock(), page=page)


class Unplugged(QdrantClient):
    """A local Qdrant whose answers can be held back."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.down = False
        self.upserts: list[int] = []

    def upsert(self, collection_name, points, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.down:
            raise NoConnection
        self.upserts.append(len(points))
        return super().upsert(collection_name, points, *args, **kwargs)

    def query_batch_points(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.down:
            raise NoConnection
        return super().query_batch_points(*args, **kwargs)

    def close(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Outlives an index, as a server does."""


class NoConnection(grpc.RpcError):
    pass


@pytest.mark.timeout(180)  # local mode compares in Python
class TestQdrantInLocalMode(HistoryIndexTest):
    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Local mode parses a filter's keys again for each point: half of the time."""
        monkeypatch.setattr(payload_value_extractor, "parse_json_path", functools.cache(parse_json_path))

    def make(self) -> HistoryIndex:
        return local()


if SERVER:

    @pytest.fixture(scope="module")
    def collection() -> Iterator[None]:
        yield
        client = connect(SERVER)
        client.delete_collection("poi-faces-test-model")
        client.close()

    @pytest.mark.timeout(180)
    @pytest.mark.usefixtures("collection")
    class TestQdrantServer(HistoryIndexTest):
        """In a collection that goes with the tests, with a store for each index."""

        def make(self) -> HistoryIndex:
            return open_index(SERVER, Header(f"test-{uuid.uuid4()}", "test-model", DIMENSION), exact=False)


def with_ids(faces: Faces) -> Faces:
    """With an appearance id of each appearance number, and a detection id of each face."""
    rows = faces.rows.copy()
    rows["appearance"] = np.array([b"appearance%06d" % one for one in faces.appearances], "V16")
    rows["detection"] = np.array([b"detection%07d" % one for one in faces.numbers], "V16")
    return Faces(faces.numbers, faces.appearances, faces.cameras, rows, faces.vectors)


def renumbered(faces: Faces, by: int) -> Faces:
    """As replay in another run numbers the same appearances."""
    return Faces(faces.numbers, faces.appearances + by, faces.cameras, faces.rows, faces.vectors)


def test_full_answers_are_asked_for_in_parts() -> None:
    random = np.random.default_rng(4)
    faces = make_faces(random, 400, 0, people=300)
    index, exact = local(page=7), ExactIndex(DIMENSION, threads=1)
    for one in (index, exact):
        one.add(faces)
    assert index.settle(10)
    for probes in (Probes(unit_rows(random, 3), unit_rows(random, 2)), Probes(*[unit_rows(random, 2)] * 2)):
        found = as_dict(index.search(probes, 0.2, Scope(end_ns=700)))
        assert len(found) > 70
        assert found == pytest.approx(as_dict(exact.search(probes, 0.2, Scope(end_ns=700))), abs=1e-6)
    rows, _ = index.faces_of(7, Scope())
    assert len(rows) == np.count_nonzero(faces.appearances == 7)
    for one in (index, exact):
        one.close()


def test_stores_share_a_collection_and_see_only_their_own() -> None:
    random = np.random.default_rng(5)
    client = Unplugged()
    first, second = local(client), local(client, Header("store-2", HEADER.model, DIMENSION))
    faces = make_faces(random, 50, 0)
    first.add(faces)
    assert first.settle(10)
    probe = faces.vectors[:1]

    assert len(first.search(Probes(probe, probe), 0.9, Scope()).numbers)
    assert not len(second.search(Probes(probe, probe), 0.9, Scope()).numbers)
    assert second.next_number == 0
    second.drop_before(10_000)
    assert second.settle(10)
    assert first.remove([int(faces.appearances[0])]) > 0
    assert len(first) == np.count_nonzero(faces.appearances != faces.appearances[0])
    first.close()
    second.close()


def test_a_face_is_found_while_qdrant_does_not_take_it_and_taken_later() -> None:
    random = np.random.default_rng(6)
    client = Unplugged()
    index = local(client)
    faces = make_faces(random, 10, 0)
    client.down = True
    index.add(faces)
    assert not index.settle(0.3)
    assert len(index) == 10
    rows, _ = index.faces_of(int(faces.appearances[0]), Scope())
    assert len(rows)
    with pytest.raises(Unavailable) as caught:  # rather than without those that Qdrant has
        index.search(Probes(faces.vectors[:1], faces.vectors[:1]), 0.9, Scope())
    assert caught.value.reason == "INDEX_UNAVAILABLE"

    client.down = False
    assert index.settle(10)
    assert client.upserts == [10]
    hits = index.search(Probes(faces.vectors[:1], faces.vectors[:1]), 0.99, Scope())
    assert int(faces.numbers[0]) in hits.numbers
    index.close()


def test_what_qdrant_has_is_not_sent_again_and_keeps_its_appearance() -> None:
    random = np.random.default_rng(7)
    client = Unplugged()
    faces = with_ids(make_faces(random, 4 * BATCH, 0, people=4000))
    index = local(client)
    index.add(faces)
    assert index.settle(20)
    index.close()
    sent = sum(client.upserts)
    assert sent == 4 * BATCH

    # Another run: replay finds the same faces, and numbers appearances from somewhere else.
    index = local(client)
    assert index.next_number == 4 * BATCH
    probe = faces.vectors[:1]
    assert not len(index.search(Probes(probe, probe), 0.99, Scope()).numbers), "nobody has named it yet"
    index.add(renumbered(faces, 5))
    assert index.settle(20)
    assert sum(client.upserts) - sent <= BATCH, "the last request may have been there in part"
    assert len(index) == 4 * BATCH
    hits = index.search(Probes(probe, probe), 0.99, Scope())
    assert hits.appearances[hits.numbers == 0].tolist() == [faces.appearances[0] + 5]
    rows, _ = index.faces_of(int(faces.appearances[0]) + 5, Scope())
    assert len(rows) == np.count_nonzero(faces.appearances == faces.appearances[0])
    assert index.remove([int(faces.appearances[0]) + 5]) == len(rows)
    assert not len(index.faces_of(int(faces.appearances[0]) + 5, Scope())[0])
    assert len(index) == 4 * BATCH - len(rows)
    index.close()


def test_too_old_faces_are_gone_from_qdrant() -> None:
    random = np.random.default_rng(8)
    client = Unplugged()
    faces = make_faces(random, 200, 0)
    faces.rows["time_ns"] *= 1_000_000
    index = local(client)
    index.add(faces)
    index.drop_before(500_000_000)
    assert index.settle(10)
    kept = faces.rows["time_ns"] >= 500_000_000
    assert len(index) == np.count_nonzero(kept)
    points, _ = client.scroll("poi-faces-test-model", limit=1000, with_payload=["number"])
    assert {(point.payload or {})["number"] for point in points} == set(faces.numbers[kept].tolist())
    index.close()


def test_aligned_faces_are_compared_with_the_template_for_them() -> None:
    random = np.random.default_rng(9)
    faces = make_faces(random, 3, 0)
    faces.rows["alignment"] = common_pb2.ALIGNMENT_ALIGNED
    faces.appearances[:] = [0, 1, 2]
    index = local()
    index.add(faces)
    assert index.settle(10)
    hits = index.search(Probes(faces.vectors[:1], faces.vectors[1:2]), 0.999, Scope())
    assert hits.appearances.tolist() == [0]
    index.close()


def test_a_collection_of_another_kind_is_refused() -> None:
    client = Unplugged()
    local(client).close()
    with pytest.raises(FailedPrecondition, match="not one of 16 dimensions"):
        local(client, Header("store-1", HEADER.model, 16))


def test_faces_are_there_after_the_files_are_opened_again(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    faces = with_ids(make_faces(random, 20, 0))
    index = local(QdrantClient(path=str(tmp_path), force_disable_check_same_thread=True))
    index.add(faces)
    assert index.settle(10)
    index.close()
    index = local(QdrantClient(path=str(tmp_path), force_disable_check_same_thread=True))
    assert len(index) == 20
    index.add(faces)
    hits = index.search(Probes(faces.vectors, faces.vectors), 0.999, Scope())
    assert set(hits.appearances.tolist()) == set(faces.appearances.tolist())
    index.close()


def test_a_server_that_is_not_there_is_told_as_unavailable(free_port: int) -> None:
    with pytest.raises(Unavailable):
        open_index(f"http://127.0.0.1:{free_port}", HEADER, exact=False)


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
