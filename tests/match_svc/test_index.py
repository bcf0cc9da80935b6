"""What every index must do (match_svc.index.Index), on each of them."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from match_svc import crossover
from match_svc.bounded import BoundedIndex, fitted
from match_svc.index import NO_HITS, ExactIndex, Floats, Hits, Index, Layered, Limits, Positions
from match_svc.quantised import QuantisedIndex
from mesh.embeddings import normalise

Make = Callable[[Floats], Index]


def faces(count: int, seed: int, spread: float = 80.0) -> Floats:
    """Unit vectors of as few dimensions as faces have: two have a cosine of 0 +- 0.11."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, 256), np.float32) * np.exp(-np.arange(256, dtype=np.float32) / spread)
    return normalise(vectors)


def seen(people: Floats, seed: int, cosine: float = 0.7) -> Floats:
    """Another face of each."""
    mixed = cosine * people + np.sqrt(1 - cosine**2) * faces(len(people), seed)
    return normalise(mixed)


def exactly(vectors: Floats, probes: Floats, limits: NDArray[np.float32], hits: Hits, doubt: float = 1e-5) -> None:
    """Every hit is one, is told once and rightly, and none is missing, but for those within `doubt` above the limit."""
    exact = probes.astype(np.float64) @ vectors.T.astype(np.float64)
    found = np.zeros(exact.shape, bool)
    found[hits.probes, hits.rows] = True
    assert found.sum() == len(hits.rows), "a hit was told twice"
    assert hits.similarities == pytest.approx(exact[hits.probes, hits.rows], abs=1e-5)
    assert not (found & (exact < limits - 1e-5)).any()
    assert not (~found & (exact >= limits + doubt)).any()


class IndexTest:
    """Subclasses say how one is made. `size` is one at which it is what it is."""

    size = 5000
    kind = "exact"

    def make(self, vectors: Floats) -> Index:
        raise NotImplementedError

    @pytest.fixture
    def vectors(self) -> Floats:
        return faces(self.size, 1)

    @pytest.fixture
    def index(self, vectors: Floats) -> Index:
        return self.make(vectors)

    def test_it_says_what_it_is(self, index: Index) -> None:
        assert (index.kind, len(index)) == (self.kind, self.size)

    @pytest.mark.parametrize("probes", [1, 3, 64])
    @pytest.mark.parametrize("threshold", [0.3, 0.45, 0.6])
    def test_it_finds_what_comparing_everything_finds(
        self, vectors: Floats, index: Index, probes: int, threshold: float
    ) -> None:
        limits = np.full(self.size, threshold, np.float32)
        asked = seen(vectors[:: self.size // probes][:probes], 2)

        hits = index.search(asked, Limits.of(limits, threshold))

        assert len(hits.rows) > 0
        exactly(vectors, asked, limits, hits, doubt=0.02)

    def test_each_row_has_its_own_limit_and_a_deleted_one_is_never_hit(self, vectors: Floats, index: Index) -> None:
        limits = np.full(self.size, 0.5, np.float32)
        limits[:50], limits[50:100], limits[100:150] = np.inf, 0.1, 0.9
        asked = seen(vectors[:200:10], 3)

        hits = index.search(asked, Limits.of(limits, 0.5))

        assert (hits.rows < 50).sum() == 0
        exactly(vectors, asked, limits, hits, doubt=0.02)

    def test_limits_may_be_low_for_all(self, vectors: Floats, index: Index) -> None:
        limits = np.full(self.size, -0.5, np.float32)
        asked = vectors[:3]

        for _ in range(2):  # an index may learn from the first
            hits = index.search(asked, Limits.of(limits, 0.45))
            assert len(hits.rows) == 3 * self.size
            exactly(vectors, asked, limits, hits)

    def test_it_obeys_limits_that_change(self, vectors: Floats, index: Index) -> None:
        limits = np.full(self.size, 0.45, np.float32)
        before = index.search(vectors[9:10], Limits.of(limits, 0.45))
        limits = limits.copy()
        limits[9] = np.inf

        after = index.search(vectors[9:10], Limits.of(limits, 0.45))

        assert set(before.rows) - set(after.rows) == {9}

    def test_no_number_of_rows_of_a_person_hides_others(self) -> None:
        """As when k is less than the rows that match: one person with hundreds of photos, and one with a worse one."""
        person, other = faces(2, 7)
        vectors = faces(self.size, 1)
        probe = seen(person[None], 8, 0.9)
        vectors[100:1000] = seen(np.repeat(person[None], 900, axis=0), 9, 0.95)
        vectors[3000] = 0.6 * probe[0] + 0.8 * (other - (other @ probe[0]) * probe[0])
        vectors[3000] /= np.linalg.norm(vectors[3000])
        limits = np.full(self.size, 0.45, np.float32)

        hits = self.make(vectors).search(probe, Limits.of(limits, 0.45))

        assert {*range(100, 1000), 3000} <= set(hits.rows.tolist())
        exactly(vectors, probe, limits, hits, doubt=0.02)

    def test_rows_that_are_all_alike_or_nothing(self) -> None:
        vectors = np.repeat(faces(1, 1), self.size, axis=0)
        vectors[:10] = 0.0
        limits = np.full(self.size, 0.45, np.float32)

        hits = self.make(vectors).search(vectors[10:12], Limits.of(limits, 0.45))

        assert len(hits.rows) == 2 * (self.size - 10)

    def test_pairs_are_compared_one_by_one(self, vectors: Floats, index: Index) -> None:
        rows = np.array([self.size - 1, 0, 77, self.size // 2])

        assert index.pairs(vectors[:4], rows) == pytest.approx(np.sum(vectors[:4] * vectors[rows], axis=1), abs=1e-5)

    def test_no_probe_hits_nothing(self, index: Index) -> None:
        limits = Limits.of(np.full(self.size, 0.45, np.float32), 0.45)
        assert len(index.search(np.empty((0, 256), np.float32), limits).rows) == 0


class TestExactIndex(IndexTest):
    def make(self, vectors: Floats) -> Index:
        return ExactIndex(vectors)


class TestBoundedIndex(IndexTest):
    def make(self, vectors: Floats) -> Index:
        index = fitted(np.concatenate([vectors, faces(4096, 21)]))  # has a width also where the vectors are all alike
        assert isinstance(index, BoundedIndex)
        return BoundedIndex(vectors, index.turn)

    def test_it_loses_nothing_at_the_very_limit(self) -> None:
        vectors = faces(self.size, 5)
        probes = seen_at(vectors[:1000], 0.4501)

        hits = self.make(vectors).search(probes, Limits.of(np.full(self.size, 0.45, np.float32), 0.45))

        assert {(number, number) for number in range(1000)} <= set(
            zip(hits.probes.tolist(), hits.rows.tolist(), strict=True)
        )

    def test_it_looks_at_few(self, vectors: Floats, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without this the others might pass because everything is compared."""
        looked: list[int] = []

        def look(self: ExactIndex, probes: Floats, owners: Positions, rows: Positions, limits: Limits) -> Hits:
            looked.append(len(rows))
            return NO_HITS

        monkeypatch.setattr(ExactIndex, "look", look)
        monkeypatch.setattr(ExactIndex, "block", lambda *_: pytest.fail("everything was compared"))

        index.search(faces(64, 3), Limits.of(np.full(self.size, 0.45, np.float32), 0.45))

        assert 0 < sum(looked) < 64 * self.size / 200

    def test_vectors_that_fill_their_space_evenly_are_compared_wholly(self) -> None:
        assert isinstance(fitted(faces(20_000, 1, spread=1e9)), ExactIndex)


class TestQuantisedIndex(IndexTest):
    size = 8192
    kind = "quantised"

    def make(self, vectors: Floats) -> Index:
        return QuantisedIndex(vectors)

    def test_it_estimates_where_that_is_faster(self, vectors: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without this the others might pass because everything is compared."""
        index = QuantisedIndex(vectors)
        compared: list[int] = []
        monkeypatch.setattr(ExactIndex, "search", lambda *_: compared.append(1))

        index.search(seen(vectors[:64], 2), Limits.of(np.full(self.size, 0.6, np.float32), 0.6))

        assert not compared

    def test_one_face_that_is_like_thousands_makes_no_later_search_slow(
        self, vectors: Floats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (blurred,) = faces(1, 31)
        vectors[:1000] = seen(np.repeat(blurred[None], 1000, axis=0), 32, 0.6)
        index = QuantisedIndex(vectors)
        limits = Limits.of(np.full(self.size, 0.6, np.float32), 0.6)
        compared: list[int] = []

        def search(self: Index, probes: Floats, limits: Limits) -> Hits:
            compared.append(len(probes))
            return NO_HITS

        monkeypatch.setattr(ExactIndex, "search", search)
        monkeypatch.setattr(BoundedIndex, "search", search)

        index.search(blurred[None], limits)
        assert compared == [1], "it is compared with everything"
        for _ in range(200):
            index.search(seen(vectors[5000:5001], 33), limits)

        assert len(compared) < 100

    def test_of_hits_at_the_very_limit_it_misses_a_few_in_a_thousand_and_above_none(self) -> None:
        vectors = faces(16_384, 5)
        index = QuantisedIndex(vectors)
        missed: dict[float, int] = {}
        for above in (0.0, 0.05):
            probes = seen_at(vectors[:4000], 0.451 + above)
            limits = Limits.of(np.full(len(vectors), 0.45, np.float32), 0.45)
            found = set()
            for start in range(0, 4000, 64):
                hits = index.search(probes[start : start + 64], limits)
                found |= set(zip((hits.probes + start).tolist(), hits.rows.tolist(), strict=True))
            missed[above] = sum((number, number) not in found for number in range(4000))

        assert missed[0.0] <= 20
        assert missed[0.05] <= 1


class TestTunedIndex(IndexTest):
    size = 8192
    kind = "quantised"

    def make(self, vectors: Floats) -> Index:
        index = QuantisedIndex(vectors)
        index.tune()
        return index


class TestLayered(IndexTest):
    size = 8192
    kind = "quantised"

    def make(self, vectors: Floats) -> Index:
        return Layered(QuantisedIndex(vectors[:6000]), ExactIndex(vectors[6000:]))


def seen_at(people: Floats, cosine: float) -> Floats:
    """A face of each that has exactly this cosine to it."""
    other = faces(len(people), 11)
    across = other - np.sum(other * people, axis=1, keepdims=True) * people
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return normalise(cosine * people + np.sqrt(1 - cosine**2) * across)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300),
    probes=st.integers(1, 12),
    block=st.integers(1, 400),
    seed=st.integers(0, 1_000_000),
    limit=st.floats(-0.25, 0.25, width=32),
)
def test_the_exact_index_finds_exactly_the_pairs_at_or_above_the_limit(
    rows: int, probes: int, block: int, seed: int, limit: float
) -> None:
    random = np.random.default_rng(seed)
    gallery, asked = faces(rows, seed), faces(probes, seed + 1)
    limits = np.full(rows, limit, np.float32)
    limits[random.random(rows) < 0.2] = np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("match_svc.index.BLOCK_ROWS", block)
        hits = ExactIndex(gallery).search(asked, Limits.of(limits, limit))

    exactly(gallery, asked, limits, hits)


@pytest.mark.parametrize(
    ("exact", "codes", "rows"),
    [
        ((4.0, 8.0), (6.0, 6.8), 6500),  # 5.2 and 0.2 a 1000 rows against 1.0
        ((4.0, 8.0), (50.0, 54.0), crossover.MOST),  # never
        ((4.0, 8.0), (1.0, 1.1), crossover.LEAST),
    ],
)
def test_the_crossover_is_where_the_lines_cross(
    exact: tuple[float, float], codes: tuple[float, float], rows: int
) -> None:
    assert crossover.crossing((4000, 8000), exact, codes) == max(rows, crossover.LEAST)


def test_the_crossover_is_measured_within_its_bounds() -> None:
    assert crossover.LEAST <= crossover.measure(256) <= crossover.MOST
