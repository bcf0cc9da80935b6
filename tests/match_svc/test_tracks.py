"""A track's faces are matched as one: whom it shows, whom it shows no longer, and who was never there."""

import itertools

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from poi.v1 import common_pb2, match_pb2

from match_svc.tracks import Pooled, Pools, Track, weights
from mesh.embeddings import normalise
from tests.match_svc.support import Replica, counter
from tests.match_svc.support import replica as a_replica
from tests.support import detection, similar, unit
from tests.support.vectors import Vector

WOMAN, MAN, STRANGER = unit(1), unit(2), unit(3)
ALIGNED = common_pb2.ALIGNMENT_ALIGNED
SEARCHES = "poi_match_search_seconds_count"


def pools(*, tracks: int = 1024, faces: int = 16) -> Pools:
    return Pools(tracks, faces, 0.03, 0.15, 256)


def add(into: Pools, *seen: tuple[str, float, Vector], weight: float = 1.0, aligned: bool = False) -> Pooled:
    """(object id, seconds, face) in one batch."""
    return into.add(
        [Track("stores/s/cameras/c", object_id) for object_id, _, _ in seen],
        np.full(len(seen), aligned),
        np.array([face for _, _, face in seen], np.float32).reshape(len(seen), 256),
        np.array([at for _, at, _ in seen]),
        np.full(len(seen), weight, np.float32),
    )


def small(face: Vector, *, at: float, width: float, confidence: float = 0.99) -> common_pb2.Detection:
    """A detection whose face is `width` pixels wide."""
    made = detection(face, at=at)
    made.face_box.width, made.face_confidence = width, confidence
    return made


async def told(replica: Replica, sent: common_pb2.Detection) -> match_pb2.Match:
    """The one match of a detection."""
    (response,) = await replica.stream([sent])
    ((match,),) = [result.matches for result in response.results]
    return match


# Whom a track shows


async def test_faces_that_are_each_too_unlike_are_a_match_together(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    look = similar(WOMAN, 0.5, 10)
    faces = [similar(look, 0.8, 20 + at) for at in range(3)]
    assert max(float(WOMAN @ face) for face in faces) < 0.45

    assert await replica.seen(detection(faces[0], at=0)) == [[]]
    match = await told(replica, detection(faces[1], at=0.1))

    assert match.pooled_faces == 2
    assert match.similarity == pytest.approx(float(WOMAN @ normalise(faces[0] + faces[1])), abs=1e-4)
    assert match.face_similarity == pytest.approx(float(WOMAN @ faces[1]), abs=1e-4)
    assert (await told(replica, detection(faces[2], at=0.2))).pooled_faces == 3


async def test_one_bad_frame_alerts_nobody(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    look = normalise(STRANGER - 0.2 * WOMAN)
    for at in range(4):
        assert await replica.seen(detection(similar(look, 0.8, 20 + at), at=at)) == [[]]

    bad = normalise(0.5 * WOMAN + 0.5 * look + 0.3 * unit(30))
    assert float(bad @ WOMAN) > 0.5
    assert await replica.seen(detection(bad, at=4)) == [[]], "it is in the pool of the stranger"
    unlike_all = similar(WOMAN, 0.55, 31)
    assert await replica.seen(detection(unlike_all, at=5)) == [[]], "it contradicts the pool, and is not clear enough"
    assert await replica.seen(detection(similar(look, 0.8, 32), at=6)) == [[]]


async def test_one_bad_frame_hides_nobody(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    for at in range(3):
        await replica.seen(detection(similar(WOMAN, 0.7, 20 + at), at=at))

    turned = similar(WOMAN, 0.35, 30)
    match = await told(replica, detection(turned, at=3))
    assert match.similarity > 0.8
    assert match.face_similarity == pytest.approx(0.35, abs=1e-4)
    assert await replica.seen(detection(unit(40), at=4)) == [[]], "the back of a head is nobody"
    assert (await told(replica, detection(similar(WOMAN, 0.4, 31), at=5))).pooled_faces == 5, "as if it had not been"


async def test_a_face_that_stands_alone_matches_when_it_is_clear_enough(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    waiting = counter("poi_match_faces_waiting_total")

    assert await replica.seen(detection(similar(WOMAN, 0.481, 10), object_id="clear")) == [[("woman", 0.481)]]
    assert await replica.seen(detection(similar(WOMAN, 0.479, 10), object_id="not quite")) == [[]]
    assert counter("poi_match_faces_waiting_total") == waiting + 1
    match = await told(replica, detection(similar(WOMAN, 0.46, 11), object_id="not quite", at=0.1))
    assert match.pooled_faces == 2


@pytest.mark.parametrize(
    ("width", "confidence", "cosine", "found"),
    [
        (15, 0.99, 0.55, False),
        (15, 0.99, 0.61, True),
        (30, 0.6, 0.55, False),
        (30, 0.8, 0.55, True),
        (0, 0, 0.55, True),
        (float("nan"), float("nan"), 0.55, True),
        (-5, -1, 0.55, True),
    ],
)
async def test_a_poor_face_alone_must_be_clearer(
    replica: Replica, width: float, confidence: float, cosine: float, found: bool
) -> None:
    await replica.enrol("woman", WOMAN)
    face = small(similar(WOMAN, cosine, 10), at=0, width=width, confidence=confidence)

    assert await replica.seen(face) == [[("woman", cosine)] if found else []]


async def test_a_poor_face_counts_for_less(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    good, poor = similar(WOMAN, 0.9, 10), similar(WOMAN, 0.3, 11)
    await replica.seen(small(good, at=0, width=200, confidence=1.0))

    match = await told(replica, small(poor, at=1, width=8, confidence=0.5))

    assert match.similarity == pytest.approx(float(WOMAN @ normalise(good + 0.1 * poor)), abs=1e-4)


async def test_without_pooling_each_face_is_matched_alone(redis_url: str) -> None:
    async with a_replica(redis_url, pool_faces=1) as one:
        await one.enrol("woman", WOMAN)
        for at, cosine in enumerate((0.9, 0.44, 0.46, 0.7)):
            expected = [("woman", cosine)] if cosine > 0.45 else []
            assert await one.seen(detection(similar(WOMAN, cosine, 10 + at), at=at)) == [expected]


# Whom it shows no longer


async def test_a_stranger_with_the_id_of_a_known_person_is_never_reported(replica: Replica) -> None:
    """Not by what was decided, not by a pool that they got into, and with no similarity of an earlier face."""
    await replica.enrol("woman", WOMAN)
    for at in range(5):
        assert await replica.seen(detection(WOMAN, at=at)) == [[("woman", 1.0)]]

    assert await replica.seen(detection(STRANGER, at=5)) == [[]]
    rather_like_her = similar(WOMAN, 0.25, 10)
    for at in range(6, 30):
        assert await replica.seen(detection(rather_like_her, at=at)) == [[]]


async def test_a_recycled_tracker_id_hides_no_new_person(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)
    for at in range(30):
        await replica.seen(detection(similar(WOMAN, 0.8, 100 + at), at=at))
    restarted = counter("poi_match_tracks_restarted_total")

    unclear, next_one = similar(MAN, 0.55, 10), similar(MAN, 0.5, 11)
    assert await replica.seen(detection(unclear, at=31)) == [[]], "a single face might be a bad one of hers"
    assert [poi for poi, _ in (await replica.seen(detection(next_one, at=31.1)))[0]] == ["man"]
    assert counter("poi_match_tracks_restarted_total") == restarted + 1

    clear = detection(similar(MAN, 0.65, 12), at=30, object_id="2")
    for at in range(2):
        await replica.seen(detection(similar(WOMAN, 0.8, 200 + at), at=28 + at, object_id="2"))
    assert await replica.seen(clear) == [[("man", 0.65)]], "a clear face need not wait"


async def test_who_is_like_a_person_is_searched_anew_when_an_id_is_recycled(replica: Replica) -> None:
    """The decision about the last holder of the id would be good enough, and wrong."""
    await replica.enrol("mother", WOMAN)
    daughter = similar(WOMAN, 0.5, 10)
    await replica.enrol("daughter", daughter)
    assert [poi for poi, _ in (await replica.seen(detection(WOMAN, at=0)))[0]] == ["mother", "daughter"]
    await replica.enrol("man", MAN)
    await replica.seen(detection(MAN, at=20))

    found = await replica.seen(detection(daughter, at=40))

    assert [poi for poi, _ in found[0]] == ["daughter", "mother"]


async def test_after_a_gap_a_track_begins_anew(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    for at in (0, 1, 2):
        await replica.seen(detection(WOMAN, at=at))

    assert await replica.seen(detection(similar(WOMAN, 0.4, 10), at=12.5)) == [[]]
    await replica.seen(detection(WOMAN, at=0, object_id="2"))
    assert await replica.seen(detection(similar(WOMAN, 0.4, 10), at=9.5, object_id="2")) != [[]]


async def test_a_repeated_detection_matches_again_and_is_not_pooled_twice(replica: Replica) -> None:
    """As after a crash of the ingest service, which sends again what was not acknowledged."""
    await replica.enrol("woman", WOMAN)
    sent = [detection(similar(WOMAN, 0.5, 10 + at), at=at) for at in range(4)]
    first = [await replica.seen(one) for one in sent]
    assert all(matches != [[]] for matches in first)

    again = [await told(replica, one) for one in sent]

    assert {match.pooled_faces for match in again} == {4}
    assert await replica.seen(sent[-1]) == first[-1]


async def test_what_waited_still_waits_when_it_is_sent_again(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    unclear = detection(similar(WOMAN, 0.46, 10))

    for _ in range(3):
        assert await replica.seen(unclear) == [[]]
    assert await replica.seen(unclear, unclear) == [[], []]


async def test_another_replica_begins_its_own_pool_and_matches(redis_url: str) -> None:
    async with a_replica(redis_url) as one, a_replica(redis_url) as other:
        await one.enrol("woman", WOMAN)
        await one.seen(detection(WOMAN, at=0))

        matches = await told(other, detection(similar(WOMAN, 0.6, 10), at=1))

        assert (matches.pooled_faces, round(matches.similarity, 3)) == (1, 0.6)


async def test_cameras_with_other_clocks_and_the_same_ids_have_tracks_of_their_own(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)

    for at in range(5):
        hers = detection(similar(WOMAN, 0.5, 10 + at), camera="a", at=at)
        his = detection(similar(MAN, 0.5, 10 + at), camera="b", at=at - 7200)
        found = await replica.seen(hers, his)
        assert [[poi for poi, _ in matches] for matches in found] == [["woman"], ["man"]]
        assert (await told(replica, hers)).pooled_faces == at + 1


async def test_times_that_no_clock_shows_end_no_stream(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    for number, seconds in enumerate((-(2**63), 2**63 - 1, 0, 1_790_000_000)):
        odd = detection(WOMAN, at=number)
        odd.detect_time.CopyFrom(Timestamp(seconds=seconds, nanos=-1))
        assert await replica.seen(odd) == [[("woman", 1.0)]]


# The pools themselves


@settings(max_examples=60, deadline=None)
@given(
    seen=st.lists(
        st.tuples(
            st.sampled_from("abc"),  # track
            st.sampled_from([0, 1, 2]),  # person
            st.floats(0, 30),  # seconds, in any order
            st.sampled_from([0.05, 0.5, 1.0]),
            st.booleans(),
        ),
        max_size=40,
    ),
    cuts=st.lists(st.integers(1, 39), max_size=6),
    faces=st.sampled_from([2, 4, 16]),
)
def test_what_is_pooled_does_not_depend_on_how_faces_are_batched(
    seen: list[tuple[str, int, float, float, bool]], cuts: list[int], faces: int
) -> None:
    vectors = np.array(
        [similar(unit(person), 0.7, 1000 + number) for number, (_, person, *_) in enumerate(seen)], np.float32
    ).reshape(len(seen), 256)

    def pool(into: Pools, start: int, stop: int) -> Pooled:
        part = seen[start:stop]
        return into.add(
            [Track("c", one[0]) for one in part],
            np.array([one[4] for one in part], bool),
            vectors[start:stop],
            np.array([one[2] for one in part]),
            np.array([one[3] for one in part], np.float32),
        )

    whole = pool(pools(faces=faces), 0, len(seen))
    edges = sorted({0, len(seen), *(cut for cut in cuts if cut < len(seen))})
    into = pools(faces=faces)
    parts = [pool(into, start, stop) for start, stop in itertools.pairwise(edges)]

    for column, expected in enumerate(whole):
        found = np.concatenate([part[column] for part in parts]) if parts else expected
        assert found == pytest.approx(expected, abs=1e-5)
    assert np.allclose(np.linalg.norm(whole.faces, axis=1), 1.0, atol=1e-5)


def test_a_pool_follows_whoever_takes_the_place_of_somebody_alike() -> None:
    into, other = pools(faces=8), similar(WOMAN, 0.4, 10)
    for at in range(100):
        add(into, ("1", at / 10, WOMAN))

    likeness = [float(add(into, ("1", 10 + at / 10, other)).faces[0] @ other) for at in range(20)]

    assert likeness[0] < 0.6
    assert likeness[-1] > 0.95


def test_aligned_and_other_faces_are_never_mixed() -> None:
    into = pools()
    add(into, ("1", 0, WOMAN))

    assert add(into, ("1", 1, WOMAN), aligned=True).counts.tolist() == [1]
    assert add(into, ("1", 2, WOMAN)).counts.tolist() == [2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38, 0.0])
def test_no_vector_without_a_direction_enters_a_pool(bad: float) -> None:
    into = pools()
    add(into, ("1", 0, WOMAN), ("2", 0, MAN))
    with np.errstate(all="ignore"):
        add(into, ("1", 1, np.full(256, bad, np.float32)), ("2", 1, MAN), ("3", 1, np.full(256, bad, np.float32)))

    after = add(into, ("1", 2, WOMAN), ("2", 2, MAN), ("3", 2, STRANGER))

    assert after.counts.tolist() == [2, 3, 1]
    np.testing.assert_allclose(after.faces, np.stack([WOMAN, MAN, STRANGER]), atol=1e-6)


def test_only_so_many_tracks_are_pooled_and_the_latest_ones() -> None:
    into = pools(tracks=1024)
    for number in range(2500):
        add(into, (str(number), 0.0, unit(number % 50)))
        assert len(into) <= 1024

    late = add(into, *((str(number), 1.0, unit(number % 50)) for number in range(2100, 2500)))
    assert set(late.counts.tolist()) == {2}
    assert add(into, ("0", 1.0, unit(0))).counts.tolist() == [1]


def test_pools_that_are_not_used_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("match_svc.tracks.time.monotonic", lambda: now)
    into = pools()
    add(into, ("1", 0, WOMAN), ("1", 0.5, MAN), ("2", 0, MAN))
    now += 301

    add(into, ("3", 0, STRANGER))

    assert len(into) == 1
    assert np.count_nonzero(into._sums.any(axis=1)) == 1
    assert add(into, ("1", 1, WOMAN)).counts.tolist() == [1]


def test_more_faces_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        add(pools(tracks=2), *((str(number), 0.0, WOMAN) for number in range(3)))


def test_weights_are_of_width_and_confidence() -> None:
    widths, confidences = np.array([[80, 1.0], [20, 1.0], [40, 0.5], [1, 0.1], [0, 0.7], [30, 0]]).T

    assert weights(widths, confidences) == pytest.approx([1.0, 0.5, 0.5, 0.05, 0.7, 0.75])
