"""The mean of a person's references: weighed by quality, nearer to most of their faces, and no reference."""

import numpy as np
import pytest
from poi.v1 import common_pb2, poi_pb2

from match_svc.builder import Builder
from match_svc.gallery import Snapshot
from match_svc.people import Match
from match_svc.templates import weights
from mesh.embeddings import normalise
from tests.match_svc.support import STORE, Replica, becomes
from tests.support import embedding, similar, unit
from tests.support.vectors import Vector

ALIGNED, UNALIGNED, MEAN = common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_MEAN
NOW = 1_790_000_000.0
MANY = 1_000_000
WOMAN = unit(1)
PHOTOS = [similar(WOMAN, 0.6, 10 + number) for number in range(3)]


def person(poi_id: str, *faces: Vector, scores: tuple[float | None, ...] = ()) -> poi_pb2.Poi:
    """A record with references of one embedding each, measured or not."""
    poi = poi_pb2.Poi(name=f"stores/s/pois/{poi_id}")
    for number, face in enumerate(faces):
        reference = poi.references.add(name=f"{poi.name}/references/{number}", embeddings=[embedding(face)])
        if scores and (score := scores[number]) is not None:
            reference.quality.score = score
    return poi


def matches(gallery: Snapshot, probe: Vector, *, aligned: bool = True) -> list[Match]:
    """What one face matches, which is what verifying everybody finds too."""
    found = gallery.search(probe[None], np.array([aligned]), 10, NOW)
    everybody = [tuple({match.person for match in found[0]})]
    verified = gallery.verify(probe[None], np.array([aligned]), everybody, 10, NOW)
    for match, same in zip(found[0], verified[0], strict=True):
        rounded = same._replace(
            similarity=match.similarity, similarity_false_match_rate=match.similarity_false_match_rate
        )
        assert rounded == match
        assert same.similarity == pytest.approx(match.similarity, abs=1e-6)
    return found[0]


def test_the_mean_finds_a_face_that_is_like_no_photo() -> None:
    gallery = Builder("s", 0.7, MANY).apply({"woman": person("woman", *PHOTOS)}, 0.7, 1)
    face = similar(WOMAN, 0.95, 20)
    assert max(float(photo @ face) for photo in PHOTOS) < 0.7

    (match,) = matches(gallery, face)

    assert match.by_template
    assert match.similarity == pytest.approx(float(normalise(np.sum(PHOTOS, axis=0)) @ face), abs=1e-5)
    nearest = int(np.argmax([photo @ face for photo in PHOTOS]))
    assert match.reference == f"stores/s/pois/woman/references/{nearest}"


def test_a_face_that_is_like_one_photo_matches_by_that() -> None:
    gallery = Builder("s", 0.45, MANY).apply({"woman": person("woman", *PHOTOS)}, 0.45, 1)

    (match,) = matches(gallery, similar(PHOTOS[2], 0.99, 20))

    assert not match.by_template
    assert match.reference == "stores/s/pois/woman/references/2"
    assert match.similarity == pytest.approx(0.99, abs=1e-5)


def test_each_kind_of_probe_meets_the_mean_of_its_kind() -> None:
    a, u = [unit(1), unit(2)], [unit(3), unit(4)]
    poi = poi_pb2.Poi(name="stores/s/pois/p")
    for number in range(2):
        vectors = {ALIGNED: a[number], UNALIGNED: unit(9), MEAN: u[number]}
        embeddings = [embedding(vector, alignment=kind) for kind, vector in vectors.items()]
        poi.references.add(name=f"{poi.name}/references/{number}", embeddings=embeddings)
    gallery = Builder("s", 0.9, MANY).apply({"p": poi}, 0.9, 1)

    for kind, faces in ((True, a), (False, u)):
        mean = normalise(faces[0] + faces[1])
        assert [match.by_template for match in matches(gallery, mean, aligned=kind)] == [True]
        assert matches(gallery, mean, aligned=not kind) == []


def test_a_good_photo_counts_for_more_than_a_blurred_one() -> None:
    sharp, blurred = unit(1), unit(2)
    gallery = Builder("s", 0.2, MANY).apply({"p": person("p", sharp, blurred, scores=(0.8, 0.2))}, 0.2, 1)
    mean = normalise(0.8 * sharp + 0.2 * blurred)

    (match,) = matches(gallery, mean)

    assert match.by_template
    assert match.similarity == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((None, None), [1.0, 1.0]),
        ((0.4, None, 0.6), [0.4, 0.5, 0.6]),
        ((0.0, 0.5), [0.05, 0.5]),
        ((float("nan"), 7.0), [0.05, 0.05]),
    ],
    ids=["embeddings alone", "embedding among photos", "useless", "damaged record"],
)
def test_what_a_reference_counts_for(scores: tuple[float | None, ...], expected: list[float]) -> None:
    poi = person("p", *[unit(number) for number in range(len(scores))], scores=scores)

    assert weights(poi.references) == pytest.approx(expected)


def test_references_that_cancel_each_other_out_have_no_mean_and_still_match() -> None:
    gallery = Builder("s", 0.45, MANY).apply({"p": person("p", WOMAN, -WOMAN), "q": person("q", unit(2))}, 0.45, 1)

    assert [(match.person.poi_id, match.by_template) for match in matches(gallery, WOMAN)] == [("p", False)]
    assert [match.person.poi_id for match in matches(gallery, unit(2))] == ["q"]


def test_a_damaged_reference_is_not_in_the_mean() -> None:
    bad = np.full(256, np.nan, np.float32)
    gallery = Builder("s", 0.45, MANY).apply({"p": person("p", PHOTOS[0], bad, PHOTOS[1])}, 0.45, 1)

    (match,) = matches(gallery, normalise(PHOTOS[0] + PHOTOS[1]))

    assert match.similarity == pytest.approx(1.0, abs=1e-5)
    assert match.by_template


def test_counts_are_of_references_through_folding_and_removal() -> None:
    builder = Builder("s", 0.45, 0)
    faces = {f"p{n}": person(f"p{n}", *[unit(10 * n + k) for k in range(n % 4)]) for n in range(40)}
    gallery = builder.apply(faces, 0.45, 1)
    references = sum(n % 4 for n in range(40))
    assert (gallery.references, gallery.pending, gallery.rows) == (references, references, references + 20)

    fold = builder.fold()
    builder.apply({"late": person("late", unit(900), unit(901)), "p3": None}, 0.45, 2)  # while it is folded
    gallery = builder.install(fold.run())

    assert (gallery.references, gallery.pending) == (references + 2 - 3, 2)
    late = matches(gallery, normalise(unit(900) + unit(901)))
    assert [(match.person.poi_id, match.by_template) for match in late] == [("late", True)]
    assert matches(gallery, unit(30)) == []
    assert matches(gallery, normalise(unit(30) + unit(31) + unit(32))) == [], "the mean goes with its person"
    gallery = builder.install(builder.fold().run())
    assert (gallery.references, gallery.pending) == (references - 1, 0)
    assert gallery.rows == references - 1 + 20


def test_who_has_expired_is_not_matched_by_the_mean_either() -> None:
    poi = person("p", *PHOTOS)
    poi.expire_time.seconds = int(NOW)
    gallery = Builder("s", 0.45, MANY).apply({"p": poi}, 0.45, 1)

    assert matches(gallery, normalise(np.sum(PHOTOS, axis=0))) == []


async def test_a_person_is_found_by_the_mean_of_what_was_enrolled_and_added(replica: Replica) -> None:
    await replica.enrol("woman", PHOTOS[0])
    mean = normalise(PHOTOS[0] + PHOTOS[1])
    assert not (await replica.matches(mean))[0].by_template

    added = await replica.pois.AddReference(
        poi_pb2.AddReferenceRequest(poi=f"{STORE}/pois/woman", embedding=embedding(PHOTOS[1], alignment=ALIGNED))
    )

    (match,) = await replica.matches(mean)
    assert match.by_template
    assert match.similarity == match.face_similarity == pytest.approx(1.0, abs=1e-5)
    assert match.pooled_faces == 1
    assert match.reference in [one.name for one in added.references]
    assert (await replica.status()).reference_count == 2
    await replica.pois.DeleteReference(poi_pb2.DeleteReferenceRequest(name=added.references[1].name))

    async def by_template() -> bool:
        return (await replica.matches(mean))[0].by_template

    await becomes(False, by_template)
