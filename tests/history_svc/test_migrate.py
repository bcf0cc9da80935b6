"""Faces of the detection log are copied into Qdrant, and it is noticed when they are not all there."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from poi.v1 import common_pb2
from qdrant_client import models
from rich.console import Console

from history_svc.index import Probes, Scope
from history_svc.log import DetectionLog
from history_svc.migrate import Incomplete, Migration
from history_svc.qdrant import QdrantIndex
from history_svc.records import HAS_VECTOR, ROW, Header, Vectors, encode_detections, encode_header
from tests.history_svc.test_index import DIMENSION, unit_rows
from tests.history_svc.test_qdrant import Unplugged, local
from tests.history_svc.test_qdrant import pytestmark as pytestmark

HEADER = Header("store-1", "test-model", DIMENSION)
NOW = time.time_ns()
HOUR = 3_600_000_000_000
FLOOR = NOW - 48 * HOUR
RECORDS, EACH = 30, 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three files with 1,800 detections of 90 appearances; half a record's are too old, one record is there twice."""
    random = np.random.default_rng(11)
    people = unit_rows(random, 30)
    log = DetectionLog(tmp_path, encode_header(HEADER), segment_bytes=50_000, segment_seconds=3600)
    for record in range(RECORDS):
        payload = encode_detections(*a_record(random, people, record))
        log.append([payload], NOW)
    log.append([payload], NOW)
    log.close()
    assert len(list(tmp_path.glob("*.log"))) > 2
    return tmp_path


def a_record(
    random: np.random.Generator, people: Vectors, record: int
) -> tuple[list[tuple[str, str]], bytes, Vectors, int]:
    rows = np.zeros(EACH, ROW)
    first = record * EACH
    rows["detection"] = np.array([b"detection%07d" % (first + at) for at in range(EACH)], "V16")
    appearance = random.integers(0, 90, EACH)
    rows["appearance"] = np.array([b"appearance%06d" % one for one in appearance], "V16")
    rows["time_ns"] = NOW - random.integers(0, 40 * HOUR, EACH)
    if record == 0:
        rows["time_ns"][: EACH // 2] = FLOOR - HOUR
    rows["track"] = appearance % 3
    rows["alignment"] = common_pb2.ALIGNMENT_ALIGNED
    rows["flags"] = np.where(np.arange(EACH) % 10, HAS_VECTOR, 0)
    vectors = people[appearance[rows["flags"] > 0] % 30] + 0.1 * random.standard_normal((EACH * 9 // 10, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [(f"camera-{at}", "1") for at in range(3)], rows.tobytes(), vectors, record * EACH * 9 // 10


def migration(directory: Path, index: QdrantIndex) -> Migration:
    return Migration(directory, HEADER, index, FLOOR, Console(quiet=True))


def test_a_copy_has_all_faces_and_finds_the_same(log: Path) -> None:
    index = local(Unplugged(), HEADER)
    copy = migration(log, index)
    assert copy.copy() == RECORDS * EACH * 9 // 10 - 27
    assert len(index) == RECORDS * EACH * 9 // 10 - 27, "without what is too old or repeated"
    copy.check(0.45)
    index.close()


def test_a_copy_goes_on_where_it_was(log: Path) -> None:
    client = Unplugged()
    index = local(client, HEADER)
    migration(log, index).copy()
    sent = sum(client.upserts)
    index.close()

    index = local(client, HEADER)
    again = migration(log, index)
    again.copy()
    again.check(0.45)
    assert sum(client.upserts) - sent < sent / 2
    index.close()


def test_a_missing_face_is_noticed(log: Path) -> None:
    client = Unplugged()
    index = local(client, HEADER)
    copy = migration(log, index)
    copy.copy()
    newer = models.FieldCondition(key="number", range=models.Range(gte=700, lt=702))
    client.delete("poi-faces-test-model", models.FilterSelector(filter=models.Filter(must=[newer])))
    with pytest.raises(Incomplete, match=r"Qdrant has 1,591 faces of 1,593, others at [12] cameras"):
        copy.check(0.45)
    index.close()


def test_searches_that_do_not_find_all_are_noticed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = local(Unplugged(), HEADER)
    copy = migration(log, index)
    copy.copy()
    search = index.search

    def a_little(probes: Probes, least: float, scope: Scope) -> object:
        return search(probes, 0.9, scope)

    monkeypatch.setattr(index, "search", a_little)
    with pytest.raises(Incomplete, match="20 searches find"):
        copy.check(0.2)
    index.close()


def test_another_stores_log_is_refused(log: Path) -> None:
    index = local(Unplugged(), HEADER)
    with pytest.raises(Incomplete, match="store-1"):
        Migration(log, Header("store-2", HEADER.model, DIMENSION), index, FLOOR, Console(quiet=True)).copy()
    index.close()


@pytest.mark.parametrize(
    ("url", "why"), [("", "says where to, and is empty"), ("http://127.0.0.1:{port}", "the vector database did not")]
)
def test_the_command_says_what_is_wrong(url: str, why: str, free_port: int, tmp_path: Path) -> None:
    environment = {"POI_HISTORY_QDRANT_URL": url.format(port=free_port), "POI_HISTORY_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "history_svc", "migrate"], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("history_svc: POI_HISTORY_QDRANT_URL: " + why)
