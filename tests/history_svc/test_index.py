"""What every HistoryIndex must do; a new one is added by a subclass."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poi.v1 import common_pb2

from history_svc.index import ExactIndex, Faces, HistoryIndex, Hits, Probes, Scope
from history_svc.records import ROW, Vectors

DIMENSION = 8
CAMERAS = ("a", "b", "c")


def unit_rows(random: np.random.Generator, count: int) -> Vectors:
    vectors = random.standard_normal((count, DIMENSION))
    normalised: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normalised


def make_faces(random: np.random.Generator, count: int, first: int, people: int = 20) -> Faces:
    rows = np.zeros(count, ROW)
    rows["time_ns"] = random.integers(0, 1000, count)
    rows["alignment"] = random.integers(0, 3, count)
    rows["detection"] = np.array([b"detection%07d" % at for at in range(first, first + count)], "V16")
    rows["face_confidence"] = np.arange(first, first + count)  # tells rows apart
    cameras = [CAMERAS[at] for at in random.integers(0, 3, count)]
    appearances = random.integers(0, people, count)
    return Faces(np.arange(first, first + count), appearances, cameras, rows, unit_rows(random, count))


def brute_force(all_faces: list[Faces], probes: Probes, least: float, scope: Scope, floor: int) -> dict[int, float]:
    best: dict[int, float] = {}
    for faces in all_faces:
        for at in range(len(faces.numbers)):
            when = int(faces.rows["time_ns"][at])
            inside = max(scope.start_ns, floor) <= when < scope.end_ns and faces.numbers[at] < scope.before
            if not inside or (scope.cameras is not None and faces.cameras[at] not in scope.cameras):
                continue
            aligned = faces.rows["alignment"][at] == common_pb2.ALIGNMENT_ALIGNED
            templates = probes.aligned if aligned else probes.unaligned
            cosine = float((templates @ faces.vectors[at]).max())
            if cosine >= least:
                number = int(faces.appearances[at])
                best[number] = max(best.get(number, -1.0), cosine)
    return best


def as_dict(hits: Hits) -> dict[int, float]:
    assert len(set(hits.appearances.tolist())) == len(hits.appearances)
    assert hits.rows["face_confidence"].tolist() == hits.numbers.tolist(), "each hit with its own row"
    return dict(zip(hits.appearances.tolist(), hits.similarities.tolist(), strict=True))


SCOPES = st.builds(
    Scope,
    start_ns=st.integers(-1, 900),
    end_ns=st.integers(100, 1100),
    cameras=st.none() | st.sets(st.sampled_from([*CAMERAS, "unknown"]), min_size=1),
    before=st.integers(0, 400) | st.just(1 << 62),
)


class HistoryIndexTest:
    """Runs on each implementation: `make` gives an empty one for vectors of DIMENSION."""

    tolerance = 1e-5
    """Of a similarity."""
    added = 20_000
    """Faces that are added during searches."""
    later = 5_000
    """Those that are added between two looks at the same question."""

    def make(self) -> HistoryIndex:
        raise NotImplementedError

    # Each implementation runs the same function.
    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
    )
    @given(
        sizes=st.lists(st.integers(1, 60), max_size=6),
        seed=st.integers(0, 1000),
        least=st.floats(0.1, 0.95),
        floor=st.integers(-1, 600),
        scope=SCOPES,
    )
    def test_search_is_exact(self, sizes: list[int], seed: int, least: float, floor: int, scope: Scope) -> None:
        random = np.random.default_rng(seed)
        index, added, first = self.make(), list[Faces](), 0
        for size in sizes:
            added.append(make_faces(random, size, first))
            index.add(added[-1])
            first += size
        index.drop_before(floor)
        probes = Probes(unit_rows(random, 2), unit_rows(random, 2))

        hits = as_dict(index.search(probes, least, scope))

        # Cosines within rounding of the limit may fall on either side.
        assert hits.keys() >= brute_force(added, probes, least + self.tolerance, scope, floor).keys()
        wide = brute_force(added, probes, least - self.tolerance, scope, floor)
        assert hits == pytest.approx({number: wide[number] for number in hits}, abs=self.tolerance)
        assert index.next_number == first
        index.close()

    def test_later_faces_change_nothing_below_their_number(self) -> None:
        random = np.random.default_rng(1)
        index, first = self.make(), 0
        index.add(make_faces(random, 100, first))
        probes = Probes(unit_rows(random, 3), unit_rows(random, 3))
        scope = Scope(before=index.next_number)
        before = index.search(probes, 0.3, scope)
        for first in range(100, 100 + self.later, 100):
            index.add(make_faces(random, 100, first))
            after = index.search(probes, 0.3, scope)
            # To the last digit: page tokens rely on it.
            assert as_dict(after) == as_dict(before)
            assert after.numbers.tolist() == before.numbers.tolist()
        index.close()

    def test_faces_of_an_appearance(self) -> None:
        random = np.random.default_rng(2)
        index, faces = self.make(), make_faces(random, 300, 0)
        index.add(faces)
        rows, vectors = index.faces_of(7, Scope(end_ns=500))
        wanted = (faces.appearances == 7) & (faces.rows["time_ns"] < 500)
        assert rows["face_confidence"].tolist() == faces.numbers[wanted].tolist()
        assert np.allclose(vectors, faces.vectors[wanted], rtol=0, atol=self.tolerance)
        index.close()

    def test_searches_run_while_faces_are_added(self) -> None:
        """A search sees whole batches' rows as they were added, never half of one."""
        random = np.random.default_rng(3)
        index, probe = self.make(), unit_rows(random, 1)
        done = threading.Event()
        seen: list[int] = []

        def search() -> None:
            while not done.is_set():
                hits = index.search(Probes(probe, probe), 0.998, Scope())
                assert np.allclose(hits.similarities, 1.0, atol=self.tolerance), "the probe itself"
                assert hits.rows["face_confidence"].tolist() == hits.numbers.tolist()
                seen.append(len(hits.appearances))

        thread = threading.Thread(target=search)
        thread.start()
        for first in range(0, self.added, 50):
            faces = make_faces(random, 50, first)
            vectors = np.where(np.arange(50)[:, None] == 7, probe, -np.abs(probe))
            index.add(Faces(faces.numbers, faces.numbers, faces.cameras, faces.rows, vectors.astype(np.float32)))
        done.set()
        thread.join()

        assert seen == sorted(seen)
        assert as_dict(index.search(Probes(probe, probe), 0.998, Scope())).keys() == set(range(7, self.added, 50))
        index.close()


class TestExactIndex(HistoryIndexTest):
    """In memory, with chunks small enough to have several."""

    def make(self) -> HistoryIndex:
        return ExactIndex(DIMENSION, threads=2, chunk_rows=128)
