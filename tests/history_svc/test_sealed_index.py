"""Sealed segments as an index: the shared rules, recall beside an exact search, what files say when damaged."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from history_svc.index import ExactIndex, Faces, HistoryIndex, Probes, Scope
from history_svc.quarantine import Quarantine
from history_svc.records import HAS_VECTOR, ROW, Header, Rows, Vectors, appearance_numbers, rounded
from history_svc.sealed import build
from history_svc.sealed.directory import Directory
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from tests.history_svc.test_index import DIMENSION, HistoryIndexTest

WIDE = 256


class Sealing(SegmentedIndex):
    """Seals itself whenever it has so many faces that are in memory only."""

    def __init__(self, directory: Path, dimension: int, every: int) -> None:
        super().__init__(dimension, threads=2, chunk_rows=128)
        self.header = Header("s", "m", dimension)
        self.path = directory
        self.directory = Directory(directory / "segments", Quarantine(directory / "quarantine"), self.header)
        self._every, self._waiting = every, list[Faces]()

    def add(self, faces: Faces) -> None:
        super().add(faces)
        self._waiting.append(faces)
        if sum(len(one.numbers) for one in self._waiting) >= self._every:
            self.seal()

    def seal(self) -> None:
        """Moves all that is in memory to a segment."""
        waiting, self._waiting = self._waiting, []
        rows = np.concatenate([one.rows for one in waiting])
        content = build.Content(
            rows,
            [camera for one in waiting for camera in one.cameras],
            np.concatenate([one.numbers for one in waiting]),
            np.concatenate([one.vectors for one in waiting]).astype(np.float16),
            np.concatenate([one.appearances for one in waiting]),
            [],
            [],
            next_face=self.next_number,
            fresh=0,
        )
        number = len(self.segments) + 1
        written = build.write(self.path / "segments", self.header, build.Place(number, number), content)
        self.take(SealedFaces(self.path / "segments" / written.directory, written))


class TestSegmentedIndex(HistoryIndexTest):
    """Most in small segments, the newest in memory."""

    tolerance = 1e-3  # half precision, and only eight dimensions to even it out

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def make(self) -> HistoryIndex:
        return Sealing(Path(tempfile.mkdtemp(dir=self.path)), DIMENSION, every=100)


def _people(random: np.random.Generator, count: int, people: int, first: int = 0) -> tuple[Faces, Vectors]:
    """Faces with a cosine of about 0.75 to others of their person; and each person's own direction."""
    centres = random.standard_normal((people, WIDE)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    person = random.integers(0, people, count)
    noise = random.standard_normal((count, WIDE)).astype(np.float32) / np.sqrt(WIDE)
    vectors = centres[person] * np.sqrt(0.75) + noise * np.sqrt(0.25)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Rows = np.zeros(count, ROW)
    rows["time_ns"] = np.arange(count)
    rows["flags"] = HAS_VECTOR
    rows["face_confidence"] = np.arange(first, first + count)
    cameras = [f"c{at % 5}" for at in range(count)]
    return Faces(np.arange(first, first + count), np.arange(count) // 3, cameras, rows, rounded(vectors)), centres


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.0])
def test_recall_and_similarities_are_those_of_an_exact_search(tmp_path: Path, threshold: float) -> None:
    random = np.random.default_rng(11)
    faces, centres = _people(random, 20_000, 400)
    exact, sealed = ExactIndex(WIDE, 2), Sealing(tmp_path, WIDE, every=10_000)
    exact.add(faces)
    for start in range(0, 20_000, 10_000):
        part = slice(start, start + 10_000)
        sealed.add(
            Faces(
                faces.numbers[part],
                faces.appearances[part],
                faces.cameras[part],
                faces.rows[part],
                faces.vectors[part],
            )
        )
    assert len(sealed.segments) == 2

    wanted = found = 0
    for at in range(0, 400, 50):
        probes = Probes(centres[at : at + 1], faces.vectors[at : at + 1])
        for scope in (Scope(), Scope(start_ns=3000, end_ns=12_000, cameras=["c1", "c2"])):
            truth, hits = exact.search(probes, threshold, scope), sealed.search(probes, threshold, scope)
            expected = dict(zip(truth.appearances.tolist(), truth.similarities.tolist(), strict=True))
            got = dict(zip(hits.appearances.tolist(), hits.similarities.tolist(), strict=True))
            assert got.items() <= expected.items(), "to the last digit"
            wanted, found = wanted + len(expected), found + len(got)

    assert wanted > 50
    assert found >= 0.999 * wanted
    exact.close()
    sealed.close()


def test_faces_that_are_all_alike_are_all_found(tmp_path: Path) -> None:
    """Their distance to the segment's mean is nothing, and what is estimated from it has no meaning."""
    faces, _ = _people(np.random.default_rng(1), 5000, 1)
    same = Faces(faces.numbers, faces.numbers, faces.cameras, faces.rows, np.repeat(faces.vectors[:1], 5000, axis=0))
    index = Sealing(tmp_path, WIDE, every=5000)
    index.add(same)

    hits = index.search(Probes(same.vectors[:1], same.vectors[:1]), 0.9, Scope())

    assert len(hits.numbers) == 5000
    index.close()


def test_appearance_numbers_differ_where_ids_hardly_do() -> None:
    counted = np.frombuffer(b"".join(number.to_bytes(16, "big") for number in range(100_000)), "V16")
    swapped = np.frombuffer(b"".join(number.to_bytes(16, "little") for number in range(1, 100_000)), "V16")

    numbers = np.concatenate([appearance_numbers(counted), appearance_numbers(swapped)])

    assert len(np.unique(numbers)) == len(numbers)
    assert (numbers >= 0).all()
