"""MatchService through its contract: who is matched, who is not, and what cannot be used."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, match_pb2, poi_pb2

from tests.match_svc.support import STORE, Replica, reason_and_fields, refused
from tests.support import detection, embedding, similar, unit

WOMAN, MAN, STRANGER = unit(1), unit(2), unit(3)


async def test_a_match_says_who_how_near_and_by_which_reference(replica: Replica) -> None:
    made = await replica.enrol("woman", WOMAN, display_name="Jane", severity=common_pb2.SEVERITY_HIGH, threshold=0.5)

    (match,) = await replica.matches(similar(WOMAN, 0.7, 9))

    assert (match.poi, match.display_name, match.severity) == (made.name, "Jane", common_pb2.SEVERITY_HIGH)
    assert match.similarity == pytest.approx(0.7, abs=1e-4)
    assert match.threshold == pytest.approx(0.5)
    assert match.reference == made.references[0].name


async def test_a_stranger_matches_nobody(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)

    assert await replica.who(STRANGER) == []
    assert await replica.seen(detection(STRANGER)) == [[]]


async def test_the_default_threshold_is_0_45(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)

    assert await replica.who(similar(WOMAN, 0.451, 9)) == ["woman"]
    assert await replica.who(similar(WOMAN, 0.449, 9)) == []


async def test_similarity_is_the_cosine_whatever_a_pipeline_rounds(replica: Replica) -> None:
    """Norms may be 1 % off, on both sides."""
    await replica.enrol("woman", WOMAN * 1.009)
    face = similar(WOMAN, 0.9, 9)

    for scale in (0.991, 1.009):
        assert await replica.seen(detection(face * scale)) == [[("woman", 0.9)]]
    assert await replica.seen(detection(similar(WOMAN, 0.447, 9) * 1.009, object_id="2")) == [[]]
    assert (await replica.matches(WOMAN))[0].similarity <= 1.0


async def test_twins_are_answered_best_first(replica: Replica) -> None:
    await replica.enrol("twin-a", WOMAN)
    await replica.enrol("twin-b", similar(WOMAN, 0.9, 5))
    face = similar(WOMAN, 0.9, 5)

    assert await replica.who(face) == ["twin-b", "twin-a"]
    assert await replica.who(WOMAN) == ["twin-a", "twin-b"]
    first = await replica.seen(detection(face, at=0))
    again = [await replica.seen(detection(WOMAN, at=at)) for at in (1, 2)][-1]
    assert first == [[("twin-b", 1.0), ("twin-a", 0.9)]]
    assert [poi_id for poi_id, _ in again[0]] == ["twin-a", "twin-b"], "whom the track is known as settles no order"


async def test_no_more_persons_than_asked_for(replica: Replica) -> None:
    for number in range(7):
        await replica.enrol(f"p{number}", similar(WOMAN, 0.9 - number / 100, 100 + number))

    async def count(most: int) -> int:
        request = match_pb2.MatchFacesRequest(parent=STORE, embeddings=[embedding(WOMAN)], max_matches=most)
        return len((await replica.match.MatchFaces(request)).faces[0].matches)

    assert [await count(most) for most in (0, 2, 100)] == [5, 2, 7]


async def test_the_stores_threshold_is_for_those_without_their_own(replica: Replica) -> None:
    await replica.enrol("own", WOMAN, threshold=0.5)
    await replica.enrol("none", similar(WOMAN, 0.999, 7))
    face = similar(WOMAN, 0.55, 9)
    assert set(await replica.who(face)) == {"own", "none"}

    settings = match_pb2.MatchSettings(name=f"{STORE}/matchSettings", threshold=0.7)
    await replica.match.UpdateMatchSettings(match_pb2.UpdateMatchSettingsRequest(match_settings=settings))

    assert await replica.who(face) == ["own"]
    assert set(await replica.who(similar(WOMAN, 0.9, 9))) == {"own", "none"}


async def test_who_was_deleted_is_matched_no_more(replica: Replica) -> None:
    made = await replica.enrol("woman", WOMAN)
    assert await replica.seen(detection(WOMAN, at=0)) == [[("woman", 1.0)]]

    await replica.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name))

    assert await replica.who(WOMAN) == []
    assert await replica.seen(detection(WOMAN, at=1)) == [[]]


async def test_whose_threshold_was_raised_is_matched_no_more(replica: Replica) -> None:
    made = await replica.enrol("woman", WOMAN)
    face = similar(WOMAN, 0.6, 9)
    assert await replica.seen(detection(face, at=0)) == [[("woman", 0.6)]]

    await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, threshold=0.8)))

    assert await replica.seen(detection(face, at=1)) == [[]]
    assert await replica.who(face) == []


async def test_who_expires_is_matched_no_more_from_that_moment(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ends = time.time(), Timestamp()
    ends.FromNanoseconds(round((now + 3600) * 1e9))
    await replica.enrol("woman", WOMAN, expire_time=ends)
    for second, expected in ((0, [("woman", 1.0)]), (3599, [("woman", 1.0)]), (3601, [])):
        clock = SimpleNamespace(time=lambda second=second: now + second, perf_counter=time.perf_counter)
        monkeypatch.setattr("match_svc.matching.time", clock)
        assert await replica.seen(detection(WOMAN, at=second)) == [expected]

    assert await replica.who(WOMAN) == []
    assert (await replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{STORE}/pois/woman"))).HasField("expire_time")


async def test_a_renamed_person_is_matched_by_the_new_name(replica: Replica) -> None:
    made = await replica.enrol("woman", WOMAN)
    await replica.seen(detection(WOMAN, at=0))

    await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, display_name="Joan")))

    (response,) = await replica.stream([detection(WOMAN, at=1)])
    assert [match.display_name for match in response.results[0].matches] == ["Joan"]


async def test_an_empty_store_matches_nobody(replica: Replica) -> None:
    assert await replica.who(WOMAN) == []
    assert await replica.seen(detection(WOMAN)) == [[]]
    (response,) = await replica.stream([])
    assert not response.results
    assert not response.errors


BAD = [
    (embedding(np.full(256, np.nan, np.float32)), "INVALID_EMBEDDING", ".vector"),
    (embedding(np.full(256, -np.inf, np.float32)), "INVALID_EMBEDDING", ".vector"),
    (embedding(np.full(256, 3e38, np.float32)), "INVALID_EMBEDDING", ".vector"),
    (embedding(WOMAN * 1.5), "INVALID_EMBEDDING", ".vector"),
    (embedding(np.zeros(256, np.float32)), "INVALID_EMBEDDING", ".vector"),
    (embedding(unit(1, 128)), "INVALID_EMBEDDING", ".vector"),
    (common_pb2.Embedding(model="face-reidentification-retail-0095", vector=b"123"), "INVALID_EMBEDDING", ".vector"),
    (embedding(WOMAN, model="person-reidentification-retail-0287"), "MODEL_MISMATCH", None),
    (common_pb2.Embedding(), "EMBEDDING_MISSING", ""),
]


async def test_a_bad_embedding_costs_itself_alone(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)
    batch = [detection(WOMAN, object_id="first")]
    for number, (bad, _, _) in enumerate(BAD):
        batch.append(detection(WOMAN, object_id=f"bad{number}"))
        batch[-1].embedding.CopyFrom(bad)
    batch.append(detection(MAN, object_id="last"))

    broken, after = await replica.stream(batch, [detection(MAN, at=1)])

    assert [(result.detection_id, result.matches[0].poi) for result in broken.results] == [
        (batch[0].detection_id, f"{STORE}/pois/woman"),
        (batch[-1].detection_id, f"{STORE}/pois/man"),
    ]
    assert [error.index for error in broken.errors] == list(range(1, 1 + len(BAD)))
    for error, (_, reason, field) in zip(broken.errors, BAD, strict=True):
        fields = set() if field is None else {f"detections[{error.index}].embedding{field}"}
        assert reason_and_fields(error.status) == (reason, fields)
        assert error.item_id == batch[error.index].detection_id
    assert len(after.results) == 1
    assert not after.errors, "the stream goes on"


async def test_a_bad_face_costs_itself_alone(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    request = match_pb2.MatchFacesRequest(
        parent=STORE, embeddings=[embedding(WOMAN), *(bad for bad, _, _ in BAD), embedding(WOMAN)]
    )

    faces = (await replica.match.MatchFaces(request)).faces

    assert [bool(face.matches) for face in faces] == [True, *[False] * len(BAD), True]
    assert [reason_and_fields(face.error)[0] for face in faces[1:-1]] == [reason for _, reason, _ in BAD]
    assert not faces[0].HasField("error")
    assert not faces[-1].HasField("error")


async def test_an_incomplete_detection_is_refused_and_its_fields_named(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    batch = [detection(WOMAN, object_id=str(number)) for number in range(7)]
    batch[0].ClearField("detection_id")
    batch[1].ClearField("camera")
    batch[2].camera = "stores/other/cameras/c"
    batch[3].ClearField("object_id")
    batch[4].ClearField("detect_time")
    batch[5].object_id = "x" * 300

    (response,) = await replica.stream(batch)

    named = [reason_and_fields(error.status) for error in response.errors]
    wrong = ["detection_id", "camera", "camera", "object_id", "detect_time", "object_id"]
    assert named == [("INVALID_DETECTION", {f"detections[{at}].{field}"}) for at, field in enumerate(wrong)]
    assert [result.detection_id for result in response.results] == [batch[6].detection_id]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (match_pb2.MatchDetectionsRequest(parent="nonsense"), "parent"),
        (match_pb2.MatchDetectionsRequest(parent=STORE, detections=[detection(WOMAN)] * 257), "detections"),
    ],
)
async def test_a_batch_that_is_none_ends_the_stream_after_what_was_sent_before(
    replica: Replica, request_: match_pb2.MatchDetectionsRequest, field: str
) -> None:
    await replica.enrol("woman", WOMAN)
    fine = match_pb2.MatchDetectionsRequest(parent=STORE, batch_id=7, detections=[detection(WOMAN)])
    call = replica.match.MatchDetections(iter([fine, request_]))

    first = await call.read()

    assert isinstance(first, match_pb2.MatchDetectionsResponse)
    assert (first.batch_id, len(first.results)) == (7, 1)
    code, _, fields = await refused(call.read())
    assert (code, fields) == ("INVALID_ARGUMENT", {field})


async def test_answers_come_in_the_order_of_the_batches(replica: Replica) -> None:
    """Small and large batches in turn: some are searched in threads, some at once."""
    for number in range(300):
        await replica.enrol(f"p{number}", unit(100 + number))
    batches = [
        [detection(unit(100 + (number * 7 + item) % 300), object_id=f"{number}-{item}") for item in range(size)]
        for number, size in enumerate([256, 1, 64, 2, 200, 1, 1, 128] * 3)
    ]

    responses = await replica.stream(*batches)

    assert [response.batch_id for response in responses] == list(range(len(batches)))
    assert [len(response.results) for response in responses] == [len(batch) for batch in batches]


async def test_a_server_that_drains_ends_its_streams_resumably(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    asked = asyncio.Event()

    async def requests() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        yield match_pb2.MatchDetectionsRequest(parent=STORE, batch_id=1, detections=[detection(WOMAN)])
        asked.set()
        await asyncio.Event().wait()

    call = replica.match.MatchDetections(requests())
    first = await call.read()
    await asked.wait()
    replica.server.draining.set()

    assert isinstance(first, match_pb2.MatchDetectionsResponse)
    assert len(first.results) == 1
    async with asyncio.timeout(60):
        code, reason, _ = await refused(call.read())
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE.name, "DRAINING")
