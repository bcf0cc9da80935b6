"""SearchAppearances: exact, by every kind of query, in stable pages, with zone visits where RegionService answers.

Vectors are kept in half precision, which moves a similarity by 3e-5.
"""

import grpc
import numpy as np
import pytest
from poi.v1 import common_pb2, history_pb2, poi_pb2, region_pb2

from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, from_rpc
from tests.history_svc.client import STORE, Client, detection, moment, seconds
from tests.history_svc.neighbours import Neighbours
from tests.support import embedding, similar, unit
from tests.support.vectors import Vector

pytestmark = pytest.mark.both_stores

ALIGNED, UNALIGNED = common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED
WOMAN = unit(1)


def _request(vector: Vector, **fields: object) -> history_pb2.SearchAppearancesRequest:
    return history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(vector), **fields)  # type: ignore[arg-type]


async def _search(client: Client, request: history_pb2.SearchAppearancesRequest) -> list[tuple[str, float]]:
    """(object id, similarity) of all hits, by pages."""
    hits: list[tuple[str, float]] = []
    while True:
        response = await client.stub.SearchAppearances(request)
        hits += [(hit.appearance.object_id, hit.similarity) for hit in response.hits]
        if not response.next_page_token:
            assert response.total_size == len(hits)
            return hits
        request.page_token = response.next_page_token


async def _refused(client: Client, request: history_pb2.SearchAppearancesRequest) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.stub.SearchAppearances(request)
    return from_rpc(raised.value)


async def test_search_finds_what_brute_force_finds(client: Client) -> None:
    """Thousands of faces over three cameras, compared with a plain product."""
    random = np.random.default_rng(7)
    people = [unit(seed) for seed in range(40)]
    faces: list[tuple[str, str, float, Vector]] = []
    batches = []
    for number in range(30):
        batch = []
        for at in range(200):
            person = int(random.integers(40))
            vector = similar(people[person], float(random.uniform(0.6, 0.95)), (number + 1) * 1000 + at)
            camera, object_id = f"Camera_{person % 3}", f"p{person}"
            when = number * 5 + at / 50
            faces.append((camera, object_id, when, vector))
            batch.append(detection(vector, at=when, camera=camera, object_id=object_id))
        batches.append(history_pb2.AppendDetectionsRequest(parent=STORE, detections=batch))
    assert sum([len(answer.stored) async for answer in client.stream(batches)]) == len(faces)

    for probe, least, cameras, span in [
        (people[3], 0.45, [], (0.0, 1e6)),
        (similar(people[5], 0.7, 99), 0.3, [], (0.0, 1e6)),
        (people[4], 0.0, ["Camera_0", "Camera_1"], (10.0, 60.0)),
        (people[4], 0.7, ["Camera_2"], (0.0, 1e6)),
        (people[8], 0.45, [], (20.004, 20.5)),
    ]:
        expected: dict[str, float] = {}
        for camera, object_id, when, vector in faces:
            cosine = float(vector @ probe)
            if cosine >= least and (not cameras or camera in cameras) and span[0] <= round(when, 3) < span[1]:
                expected[object_id] = max(expected.get(object_id, -1.0), cosine)
        request = _request(
            probe,
            min_similarity=least,
            cameras=[f"{STORE}/cameras/{camera}" for camera in cameras],
            interval=common_pb2.Interval(start_time=moment(span[0]), end_time=moment(span[1])),
            page_size=7,
        )

        hits = await _search(client, request)

        assert dict(hits) == pytest.approx(expected, abs=1e-4)
        assert [similarity for _, similarity in hits] == sorted((s for _, s in hits), reverse=True)


async def test_nobody_found_is_an_empty_page(client: Client) -> None:
    before = await client.stub.SearchAppearances(_request(WOMAN))
    await client.append(detection(unit(2)), detection(at=1))

    after = await client.stub.SearchAppearances(_request(WOMAN))

    empty = history_pb2.SearchAppearancesResponse()
    assert before == after == empty


async def test_a_hit_shows_entry_exit_and_the_most_similar_moment(client: Client) -> None:
    sent = [detection(similar(WOMAN, cosine, 5), at=at) for at, cosine in enumerate([0.6, 0.5, 0.9, 0.7])]
    await client.append(*sent, detection(at=5))

    (hit,) = (await client.stub.SearchAppearances(_request(WOMAN))).hits

    found = hit.appearance
    assert hit.similarity == pytest.approx(0.9, abs=1e-4)
    assert found.camera == f"{STORE}/cameras/Camera_01"
    assert (found.object_id, found.detection_count, found.face_count) == ("1", 5, 4)
    assert (seconds(found.start_time), seconds(found.end_time)) == (0, 5)
    assert found.entry.detection_id == sent[0].detection_id
    assert seconds(found.exit.detect_time) == 5
    assert found.best.detection_id == sent[2].detection_id
    assert found.best.person_box == sent[2].person_box
    assert found.best.face_box == sent[2].face_box
    assert not found.exit.HasField("face_box")


async def test_pages_are_not_disturbed_by_what_comes_in_between(client: Client) -> None:
    def people(names: str, at: float) -> list[common_pb2.Detection]:
        return [
            detection(similar(WOMAN, 0.5 + ord(name) / 400, ord(name)), at=at, object_id=f"{name}{at}")
            for name in names
        ]

    await client.append(*people("abcdefghijklmnopqrstuvwxyz", at=0))
    whole = await _search(client, _request(WOMAN))
    request = _request(WOMAN, page_size=4)
    hits = []
    for number in range(1, 8):
        response = await client.stub.SearchAppearances(request)
        assert response.total_size == 26
        hits += [(hit.appearance.object_id, hit.similarity) for hit in response.hits]
        request.page_token = response.next_page_token
        await client.append(*people("bkxyz", at=100.0 * number))

    assert hits == whole
    assert not request.page_token


async def test_a_page_token_fits_its_own_query_only(client: Client) -> None:
    await client.append(*(detection(WOMAN, object_id=str(number)) for number in range(3)))
    token = (await client.stub.SearchAppearances(_request(WOMAN, page_size=1))).next_page_token

    error = await _refused(client, _request(unit(2), page_token=token))

    assert isinstance(error, InvalidArgument)
    assert error.violations[0][0] == "page_token"


async def test_a_photo_is_compared_by_how_each_face_was_prepared(wired: Client, others: Neighbours) -> None:
    """Aligned faces with the photo's aligned embedding, others with the mean of both."""
    aligned, unaligned = unit(1), similar(unit(1), 0.8, 2)
    mean = (aligned + unaligned) / np.linalg.norm(aligned + unaligned)
    others.face = [embedding(aligned, alignment=ALIGNED), embedding(unaligned, alignment=UNALIGNED)]
    await wired.append(
        detection(aligned, object_id="aligned", alignment=ALIGNED),
        detection(unaligned, object_id="unaligned", alignment=UNALIGNED),
        detection(aligned, object_id="not said", alignment=common_pb2.ALIGNMENT_UNSPECIFIED),
    )

    hits = await _search(wired, history_pb2.SearchAppearancesRequest(parent=STORE, image=b"a photo"))

    assert dict(hits) == pytest.approx(
        {"aligned": 1.0, "unaligned": float(mean @ unaligned), "not said": float(mean @ aligned)}, abs=1e-4
    )


async def test_a_photo_without_a_face_is_refused(wired: Client) -> None:
    error = await _refused(wired, history_pb2.SearchAppearancesRequest(parent=STORE, image=b"a wall"))
    assert isinstance(error, FailedPrecondition)


async def test_a_person_of_interest_is_found_by_any_reference(wired: Client, others: Neighbours) -> None:
    name = f"{STORE}/pois/p1"
    young, old = unit(1), unit(2)
    others.pois[name] = poi_pb2.Poi(
        name=name,
        references=[poi_pb2.Reference(embeddings=[embedding(young)]), poi_pb2.Reference(embeddings=[embedding(old)])],
    )
    await wired.append(
        detection(similar(young, 0.8, 3), object_id="young"),
        detection(similar(old, 0.7, 4), object_id="old"),
        detection(unit(5), object_id="stranger"),
    )

    hits = await _search(wired, history_pb2.SearchAppearancesRequest(parent=STORE, poi=name))
    error = await _refused(wired, history_pb2.SearchAppearancesRequest(parent=STORE, poi=f"{STORE}/pois/p2"))

    assert [object_id for object_id, _ in hits] == ["young", "old"]
    assert dict(hits) == pytest.approx({"young": 0.8, "old": 0.7}, abs=1e-4)
    assert isinstance(error, NotFound)


async def test_an_appearance_finds_the_others_of_its_person(client: Client) -> None:
    answer = await client.append(
        *(detection(similar(WOMAN, 0.8, 100 + at), at=at, object_id="here") for at in range(5)),
        *(detection(similar(WOMAN, 0.8, 200 + at), at=at, object_id="there", camera="Camera_02") for at in range(5)),
        detection(unit(2), object_id="stranger"),
        detection(object_id="no face"),
    )
    here, faceless = answer.stored[0].appearance, answer.stored[-1].appearance

    hits = await _search(client, history_pb2.SearchAppearancesRequest(parent=STORE, appearance=here))
    no_face = await _refused(client, history_pb2.SearchAppearancesRequest(parent=STORE, appearance=faceless))
    unknown = await _refused(
        client, history_pb2.SearchAppearancesRequest(parent=STORE, appearance=f"{STORE}/appearances/{'0' * 32}")
    )

    assert [object_id for object_id, _ in hits] == ["here", "there"]
    assert (no_face.reason, type(unknown)) == ("NO_FACE", NotFound)


@pytest.mark.parametrize(
    ("request_message", "kind", "reason"),
    [
        (_request(np.full(256, np.nan, np.float32)), InvalidArgument, "INVALID_EMBEDDING"),
        (_request(unit(1, 128)), InvalidArgument, "INVALID_EMBEDDING"),
        (
            history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(WOMAN, model="another")),
            FailedPrecondition,
            "MODEL_MISMATCH",
        ),
        (history_pb2.SearchAppearancesRequest(parent=STORE), InvalidArgument, "INVALID_ARGUMENT"),
        (_request(WOMAN, min_similarity=1.5), InvalidArgument, "INVALID_ARGUMENT"),
        (_request(WOMAN, page_token="nonsense"), InvalidArgument, "INVALID_PAGE_TOKEN"),
        (_request(WOMAN, cameras=["stores/other/cameras/c"]), InvalidArgument, "WRONG_STORE"),
        (
            _request(WOMAN, interval=common_pb2.Interval(start_time=moment(1), end_time=moment(0))),
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
    ],
)
async def test_wrong_searches_are_refused(
    any_client: Client, request_message: history_pb2.SearchAppearancesRequest, kind: type[MeshError], reason: str
) -> None:
    error = await _refused(any_client, request_message)
    assert (type(error), error.reason) == (kind, reason)


def _visit(zone: str, enter: float, leave: float | None, last: float, camera: str) -> region_pb2.Visit:
    return region_pb2.Visit(
        name=f"{STORE}/visits/{zone}",
        enter_time=moment(enter),
        exit_time=None if leave is None else moment(leave),
        last_seen_time=moment(last),
        cameras=[f"{STORE}/cameras/{camera}"],
    )


async def test_visits_that_overlap_are_joined_with_one_call(wired: Client, others: Neighbours) -> None:
    await wired.append(
        *(detection(WOMAN, at=at, object_id="a") for at in (100, 105)),
        *(detection(WOMAN, at=at, object_id="b", camera="Camera_02") for at in (200, 205)),
    )
    others.visits = [
        _visit("aisle", 104, 110, 110, "Camera_01"),
        _visit("entrance", 90, 101, 101, "Camera_01"),
        _visit("before", 50, 99, 99, "Camera_01"),
        _visit("elsewhere", 90, 110, 110, "Camera_03"),
        _visit("open", 150, None, 202, "Camera_02"),
        _visit("vanished", 150, None, 199, "Camera_02"),
    ]

    response = await wired.stub.SearchAppearances(_request(WOMAN))
    listed = await wired.appearances()
    one = await wired.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=listed[0].name))

    found = {hit.appearance.object_id: _zones(hit.appearance) for hit in response.hits}
    assert found == {"a": ["entrance", "aisle"], "b": ["open"]}
    assert {each.object_id: _zones(each) for each in listed} == found
    assert one == listed[0]
    assert len(others.visit_requests) == 3
    asked = others.visit_requests[0]
    assert (seconds(asked.interval.start_time), seconds(asked.interval.end_time)) == (100, 205)
    assert list(asked.cameras) == [f"{STORE}/cameras/Camera_01", f"{STORE}/cameras/Camera_02"]


async def test_an_appearance_without_its_visits_asks_nobody_for_them(wired: Client, others: Neighbours) -> None:
    await wired.append(detection(WOMAN, at=100, object_id="a"))
    others.visits = [_visit("aisle", 90, 110, 110, "Camera_01")]
    (listed,) = await wired.appearances()
    asked = len(others.visit_requests)

    request = history_pb2.GetAppearanceRequest(name=listed.name, view=history_pb2.APPEARANCE_VIEW_BASIC)
    basic = await wired.stub.GetAppearance(request)

    assert _zones(listed) == ["aisle"]
    del listed.visits[:]
    assert basic == listed
    assert len(others.visit_requests) == asked


def _zones(appearance: history_pb2.Appearance) -> list[str]:
    return [visit.name.rpartition("/")[2] for visit in appearance.visits]


async def test_without_the_region_service_a_search_still_answers(client: Client) -> None:
    await client.append(detection(WOMAN))

    (hit,) = (await client.stub.SearchAppearances(_request(WOMAN))).hits

    assert hit.appearance.object_id == "1"
    assert not hit.appearance.visits
