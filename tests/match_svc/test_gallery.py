"""The gallery finds what comparing everything with everything finds, however it came to be."""

import statistics
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from poi.v1 import common_pb2, poi_pb2

from match_svc.builder import Builder
from match_svc.folding import Folded
from match_svc.gallery import Snapshot
from mesh.embeddings import normalise
from tests.support import embedding, unit
from tests.support.vectors import Vector

ALIGNED, UNALIGNED, MEAN = (
    common_pb2.ALIGNMENT_ALIGNED,
    common_pb2.ALIGNMENT_UNALIGNED,
    common_pb2.ALIGNMENT_MEAN,
)
NOW = 1_790_000_000.0
CROSSOVER = 1_000_000
LOW = 0.05
"""A threshold that random vectors reach often."""


def person(poi_id: str, *faces: Vector, threshold: float | None = None, expires: int | None = None) -> poi_pb2.Poi:
    """A record with references of one embedding each."""
    poi = poi_pb2.Poi(name=f"stores/s/pois/{poi_id}", display_name=poi_id)
    for number, face in enumerate(faces):
        poi.references.add(name=f"{poi.name}/references/{number}", embeddings=[embedding(face, alignment=ALIGNED)])
    if threshold is not None:
        poi.threshold = threshold
    if expires is not None:
        poi.expire_time.seconds = expires
    return poi


def search(gallery: Snapshot, *probes: Vector, aligned: bool = True, most: int = 1000) -> list[list[tuple[str, float]]]:
    """(person, similarity) of each probe."""
    found = gallery.search(np.stack(probes), np.full(len(probes), aligned), most, NOW)
    return [[(match.person.poi_id, match.similarity) for match in matches] for matches in found]


def brute_force(people: dict[str, poi_pb2.Poi], probe: Vector, threshold: float) -> dict[str, float]:
    """person -> best similarity to references and their mean, of those who reach their threshold."""
    best = {}
    for poi_id, poi in people.items():
        vectors = [np.frombuffer(one.embeddings[0].vector, "<f4") for one in poi.references]
        if len(vectors) > 1:
            vectors.append(normalise(np.sum(vectors, axis=0)))
        similarity = max(float(vector.astype(np.float64) @ probe.astype(np.float64)) for vector in vectors)
        if similarity >= (poi.threshold if poi.HasField("threshold") else threshold):
            best[poi_id] = similarity
    return best


def agree(found: list[tuple[str, float]], expected: dict[str, float], limit: float) -> None:
    """The same persons, best first, but for float32 rounding of those at the very limit."""
    assert [one for _, one in found] == sorted((one for _, one in found), reverse=True)
    assert len({poi_id for poi_id, _ in found}) == len(found)
    similar = dict(found)
    for poi_id in similar.keys() ^ expected.keys():
        assert {**similar, **expected}[poi_id] == pytest.approx(limit, abs=1e-5)
    for poi_id in similar.keys() & expected.keys():
        assert similar[poi_id] == pytest.approx(expected[poi_id], abs=1e-5)


Change = tuple[str, int, int, float | None]


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([f"p{number}" for number in range(12)]),
                st.integers(0, 4),  # references; 0 removes the person
                st.integers(0, 1000),
                st.none() | st.sampled_from([0.0, 0.1, 0.15]),
            ),
            max_size=6,
        ),
        min_size=1,
        max_size=12,
    ),
    thresholds=st.lists(st.sampled_from([0.03, LOW, 0.08]), min_size=12, max_size=12),
    worth=st.sampled_from([0, 5, 1024]),
    crossover=st.sampled_from([0, 6, CROSSOVER]),
    slow=st.booleans(),
)
def test_a_gallery_that_changed_equals_one_made_at_once(
    batches: list[list[Change]], thresholds: list[float], worth: int, crossover: int, slow: bool
) -> None:
    builder = Builder("s", LOW, crossover)
    folding: Folded | None = None
    people: dict[str, poi_pb2.Poi] = {}
    probes = [unit(5000 + number) for number in range(6)]
    older: list[tuple[Snapshot, list[list[tuple[str, float]]]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("match_svc.builder._WORTH_FOLDING", worth)
        for revision, (batch, threshold) in enumerate(zip(batches, thresholds, strict=False)):
            changes: dict[str, poi_pb2.Poi | None] = {}
            for poi_id, count, seed, own in batch:
                faces = [unit(seed * 10 + number) for number in range(count)]
                changes[poi_id] = person(poi_id, *faces, threshold=own) if count else None
            people = {k: v for k, v in {**people, **changes}.items() if v is not None}
            gallery = builder.apply(changes, threshold, revision)
            # A folding takes as long as until after the next change, or none.
            if folding is None and builder.due():
                folding = builder.fold().run()
                if slow:
                    older.append((gallery, search(gallery, *probes)))
                    continue
            if folding is not None:
                gallery, folding = builder.install(folding), None
                assert gallery.revision == revision

            found = search(gallery, *probes)
            for probe, matches in zip(probes, found, strict=True):
                agree(matches, brute_force(people, probe, threshold), limit=threshold)
            everybody = [tuple(filter(None, map(gallery.person, people)))] * len(probes)
            verified = gallery.verify(np.stack(probes), np.ones(len(probes), bool), everybody, 1000, NOW)
            for matches, same in zip(found, verified, strict=True):
                agree([(match.person.poi_id, match.similarity) for match in same], dict(matches), limit=threshold)
            assert gallery.size == len(people)
            assert gallery.references == sum(len(poi.references) for poi in people.values())
            older.append((gallery, found))

    for gallery, found in older:
        assert search(gallery, *probes) == found, "a snapshot that is still searched was changed"


def test_a_large_gallery_is_quantised_and_a_person_is_found_before_and_after_the_folding() -> None:
    faces = [unit(number) for number in range(4200)]
    builder = Builder("s", 0.45, 4096)
    builder.apply({f"p{n}": person(f"p{n}", face) for n, face in enumerate(faces[:4100])}, 0.45, 1)
    assert builder.due()
    fold = builder.fold()
    builder.apply({"p4101": person("p4101", faces[4101]), "p7": None}, 0.45, 2)  # while it is folded
    gallery = builder.install(fold.run())

    assert (gallery.kind, gallery.revision, gallery.pending, gallery.references) == ("quantised", 2, 1, 4100)
    probes = [faces[number] for number in (0, 7, 4099, 4101)]
    expected = [["p0"], [], ["p4099"], ["p4101"]]
    assert [[poi_id for poi_id, _ in matches] for matches in search(gallery, *probes)] == expected
    assert not builder.due()


def test_a_store_of_which_most_is_deleted_is_folded_and_forgets_them() -> None:
    builder = Builder("s", 0.45, CROSSOVER)
    everybody = {f"p{n}": person(f"p{n}", unit(n)) for n in range(2100)}
    builder.apply(everybody, 0.45, 1)
    builder.apply({f"p{n}": None for n in range(2000)}, 0.45, 2)
    assert builder.due()

    gallery = builder.install(builder.fold().run())

    assert (gallery.rows, gallery.references) == (100, 100)
    assert [[poi_id for poi_id, _ in matches] for matches in search(gallery, unit(5), unit(2050))] == [[], ["p2050"]]


def test_who_was_removed_or_restricted_during_a_search_is_not_answered() -> None:
    builder = Builder("s", 0.45, CROSSOVER)
    before = builder.apply({p: person(p, unit(1)) for p in ("stays", "goes", "stricter")}, 0.45, 1)
    ((*found,),) = before.search(unit(1)[None], np.array([True]), 5, NOW)

    assert {match.person.poi_id for match in found} == {"stays", "goes", "stricter"}

    after = builder.apply({"goes": None, "stricter": person("stricter", unit(2), threshold=0.9)}, 0.45, 2)
    assert {match.person.poi_id for match in after.still(found)} == {"stays", "stricter"}, "it is as similar as it was"

    after = builder.apply({"stricter": person("stricter", unit(1), threshold=1.1)}, 0.45, 3)
    assert {match.person.poi_id for match in after.still(found)} == {"stays"}


def test_of_several_references_the_nearest_is_named() -> None:
    gallery = Builder("s", 0.45, CROSSOVER).apply({"p": person("p", unit(1), unit(2), unit(3))}, 0.45, 1)

    ((match,),) = gallery.search(unit(2)[None], np.array([True]), 5, NOW)

    assert match.reference == "stores/s/pois/p/references/1"
    assert match.similarity == pytest.approx(1.0)


def test_a_snapshot_does_not_know_whom_the_builder_added_or_moved_since() -> None:
    builder = Builder("s", 0.45, CROSSOVER)
    before = builder.apply({"p": person("p", unit(1))}, 0.45, 1)

    builder.apply({"p": person("p", unit(2)), "new": person("new", unit(3))}, 0.45, 2)

    assert before.person("p") is None
    assert before.person("new") is None
    assert search(before, unit(1), unit(2), unit(3)) == [[("p", pytest.approx(1.0))], [], []]  # type: ignore[comparison-overlap]


def test_at_most_so_many_are_found_and_the_best_ones() -> None:
    faces = [unit(number) for number in range(200)]
    everybody = {f"p{n}": person(f"p{n}", face) for n, face in enumerate(faces)}
    gallery = Builder("s", -1.0, CROSSOVER).apply(everybody, -1.0, 1)
    probe = unit(1000)
    best = sorted(range(200), key=lambda number: -float(faces[number] @ probe))[:3]

    assert [poi_id for poi_id, _ in search(gallery, probe, most=3)[0]] == [f"p{number}" for number in best]


@pytest.mark.parametrize(("seconds", "found"), [(-1, []), (0, []), (1, ["p"])])
def test_who_has_expired_is_not_matched(seconds: int, found: list[str]) -> None:
    poi = person("p", unit(1), expires=int(NOW) + seconds)
    gallery = Builder("s", 0.45, CROSSOVER).apply({"p": poi}, 0.45, 1)

    assert [poi_id for poi_id, _ in search(gallery, unit(1))[0]] == found
    known = [(somebody,)] if (somebody := gallery.person("p")) else [()]
    (verified,) = gallery.verify(unit(1)[None], np.array([True]), known, 5, NOW)
    assert [match.person.poi_id for match in verified] == found


def test_each_kind_of_probe_meets_its_kind_of_reference() -> None:
    a, u, m = unit(1), unit(2), unit(3)
    photo = poi_pb2.Poi(name="stores/s/pois/photo")
    photo.references.add(
        name="r",
        embeddings=[embedding(a, alignment=ALIGNED), embedding(u, alignment=UNALIGNED), embedding(m, alignment=MEAN)],
    )
    gallery = Builder("s", 0.45, CROSSOVER).apply({"photo": photo}, 0.45, 1)

    def reached(aligned: bool) -> list[bool]:
        return [bool(matches) for matches in search(gallery, a, u, m, aligned=aligned)]

    assert reached(aligned=True) == [True, False, False]
    assert reached(aligned=False) == [False, False, True]


@pytest.mark.parametrize("alignment", [ALIGNED, UNALIGNED, MEAN, common_pb2.ALIGNMENT_UNSPECIFIED])
def test_a_reference_of_one_kind_serves_all_probes(alignment: common_pb2.Alignment.ValueType) -> None:
    poi = poi_pb2.Poi(name="stores/s/pois/p")
    poi.references.add(name="r", embeddings=[embedding(unit(1), alignment=alignment)])
    gallery = Builder("s", 0.45, CROSSOVER).apply({"p": poi}, 0.45, 1)

    for aligned in (True, False):
        assert [poi_id for poi_id, _ in search(gallery, unit(1), aligned=aligned)[0]] == ["p"]


def damaged(vector: NDArray[np.float32]) -> poi_pb2.Poi:
    """A record that no server of ours would have written."""
    return person("bad", vector)


@pytest.mark.parametrize(
    "vector",
    [np.full(256, np.nan, np.float32), np.zeros(256, np.float32), np.full(256, 3e38, np.float32), unit(1, 128)],
    ids=["nan", "zero", "overflowing", "short"],
)
def test_a_damaged_record_is_matched_by_nobody_and_harms_no_other(vector: NDArray[np.float32]) -> None:
    gallery = Builder("s", 0.2, CROSSOVER).apply({"bad": damaged(vector), "p": person("p", unit(1))}, 0.2, 1)

    found = search(gallery, unit(1), unit(2))
    assert [[poi_id for poi_id, _ in matches] for matches in found] == [["p"], []]


def test_adding_one_person_costs_the_same_however_many_there_are() -> None:
    builder = Builder("s", 0.45, CROSSOVER)
    seconds = []
    for number in range(6000):
        poi = person(f"p{number}", unit(number))
        started = time.thread_time()
        builder.apply({f"p{number}": poi}, 0.45, number)
        seconds.append(time.thread_time() - started)

    assert statistics.median(seconds[-1000:]) < 3 * statistics.median(seconds[:1000])
