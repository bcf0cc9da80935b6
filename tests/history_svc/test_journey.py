"""GetJourney: cameras and zones of one person, in order, with stays at one place united."""

import grpc
import pytest
from poi.v1 import common_pb2, history_pb2

from mesh.errors import InvalidArgument, from_rpc
from tests.history_svc.client import STORE, Client, detection, moment, seconds
from tests.history_svc.neighbours import Neighbours
from tests.history_svc.test_summary import visit
from tests.support import embedding, similar, unit

pytestmark = pytest.mark.both_stores

WOMAN = unit(1)


def _request(**fields: object) -> history_pb2.GetJourneyRequest:
    query = history_pb2.AppearanceQuery(embedding=embedding(WOMAN))
    return history_pb2.GetJourneyRequest(parent=STORE, query=query, **fields)  # type: ignore[arg-type]


def _path(response: history_pb2.GetJourneyResponse) -> list[tuple[str, float, float]]:
    return [
        ((step.camera or step.zone).rpartition("/")[2], seconds(step.start_time), seconds(step.end_time))
        for step in response.steps
    ]


def _seen(object_id: str, camera: str, start: float, end: float, cosine: float = 0.9) -> list[common_pb2.Detection]:
    face = similar(WOMAN, cosine, 9)
    return [detection(face, at=at, object_id=object_id, camera=camera) for at in (start, (start + end) / 2, end)]


async def test_cameras_and_zones_come_in_order(wired: Client, others: Neighbours) -> None:
    answer = await wired.append(
        *_seen("b", "aisle", 130, 135, 0.7),
        *_seen("a", "door", 100, 110),
        *_seen("c", "till", 150, 152),
        detection(unit(2), at=140, object_id="stranger", camera="office"),
    )
    others.visits = [
        visit(1, "entrance", 98, 120, ["door"]),
        visit(2, "shelves", 120, 140, ["aisle"]),
        visit(3, "shelves", 300, 310, ["aisle"]),  # after her
        visit(4, "desk", 100, 200, ["office"]),
    ]

    journey = await wired.stub.GetJourney(_request())

    assert _path(journey) == [
        ("entrance", 98, 120),
        ("door", 100, 110),
        ("shelves", 120, 140),
        ("aisle", 130, 135),
        ("till", 150, 152),
    ]
    names = {stored.detection_id: stored.appearance for stored in answer.stored}
    aisle = names[answer.stored[0].detection_id]
    shelves = journey.steps[2]
    assert (list(shelves.appearances), list(shelves.object_ids)) == ([aisle], ["uuid-1"])
    assert shelves.similarity == pytest.approx(0.7, abs=1e-4)
    assert (journey.total_size, journey.visits_partial) == (3, False)
    assert len(others.visit_requests) == 1


async def test_stays_at_one_place_are_one_step(client: Client) -> None:
    """Where they overlap, or where a short gap and no other place is between them."""
    await client.append(
        *_seen("lost", "door", 100, 104),
        *_seen("and found", "door", 109, 112, 0.8),
        *_seen("twice", "door", 110, 115, 0.7),
        *_seen("elsewhere", "aisle", 117, 118),
        *_seen("back", "door", 120, 122),
        *_seen("much later", "door", 140, 142),
    )

    journey = await client.stub.GetJourney(_request())

    assert _path(journey) == [("door", 100, 115), ("aisle", 117, 118), ("door", 120, 122), ("door", 140, 142)]
    assert len(journey.steps[0].appearances) == 3
    assert journey.steps[0].similarity == pytest.approx(0.9, abs=1e-4)
    assert journey.visits_partial, "nobody answers for zones"


async def test_other_cameras_meanwhile_do_not_part_what_overlaps(client: Client) -> None:
    await client.append(*_seen("1", "door", 100, 110), *_seen("2", "aisle", 105, 120), *_seen("3", "door", 108, 115))

    assert _path(await client.stub.GetJourney(_request())) == [("door", 100, 115), ("aisle", 105, 120)]


async def test_where_tracks_tell_others_visits_are_no_steps(wired: Client, others: Neighbours) -> None:
    await wired.append(*_seen("7", "door", 100, 110))
    others.visits = [
        visit(1, "entrance", 100, 104, ["door"], tracks=["cam:door:7"]),
        visit(2, "aisle", 104, 110, ["door"], who="uuid-2", tracks=["cam:door:8"]),
    ]

    journey = await wired.stub.GetJourney(_request())

    assert _path(journey) == [("entrance", 100, 104), ("door", 100, 110)]


async def test_a_visit_that_goes_on_lasts_to_its_last_sight(wired: Client, others: Neighbours) -> None:
    await wired.append(*_seen("1", "door", 100, 110))
    others.visits = [visit(1, "entrance", 105, None, ["door"])]

    journey = await wired.stub.GetJourney(_request())

    assert _path(journey) == [("door", 100, 110), ("entrance", 105, 500)]


async def test_interval_and_similarity_limit_a_journey(client: Client) -> None:
    await client.append(
        *_seen("1", "door", 100, 110), *_seen("2", "aisle", 200, 210), *_seen("3", "till", 300, 310, 0.5)
    )

    late = await client.stub.GetJourney(_request(interval=common_pb2.Interval(start_time=moment(150))))
    sure = await client.stub.GetJourney(_request(min_similarity=0.8))
    nobody = await client.stub.GetJourney(_request(min_similarity=0.95))

    assert [place for place, _, _ in _path(late)] == ["aisle", "till"]
    assert [place for place, _, _ in _path(sure)] == ["door", "aisle"]
    assert nobody == history_pb2.GetJourneyResponse()


async def test_a_journey_by_photos(wired: Client, others: Neighbours) -> None:
    others.faces = {b"1": [embedding(WOMAN)], b"2": [embedding(unit(3))]}
    await wired.append(*_seen("1", "door", 100, 110))
    photos = history_pb2.AppearanceQuery(photos=history_pb2.Photos(images=[b"2", b"1"]))

    journey = await wired.stub.GetJourney(history_pb2.GetJourneyRequest(parent=STORE, query=photos))

    assert _path(journey) == [("door", 100, 110)]


async def test_a_photo_without_a_face_is_named_as_it_was_sent(wired: Client) -> None:
    query = history_pb2.AppearanceQuery(image=b"a wall")
    erasing = history_pb2.EraseAppearancesRequest(
        parent=STORE, selection=history_pb2.AppearanceSelection(query=query), validate_only=True
    )

    with pytest.raises(grpc.aio.AioRpcError) as journey:
        await wired.stub.GetJourney(history_pb2.GetJourneyRequest(parent=STORE, query=query))
    with pytest.raises(grpc.aio.AioRpcError) as erasure:
        await wired.stub.EraseAppearances(erasing)

    fields = [from_rpc(raised.value).metadata["field"] for raised in (journey, erasure)]
    assert fields == ["query.image", "selection.query.image"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (None, "query"),
        (history_pb2.AppearanceQuery(), "query.query"),
        (history_pb2.AppearanceQuery(photos=history_pb2.Photos()), "query.photos.images"),
        (history_pb2.AppearanceQuery(embedding=embedding(unit(1, 128))), "query.embedding.vector"),
        (history_pb2.AppearanceQuery(poi="stores/other/pois/p"), "query.poi"),
        (history_pb2.AppearanceQuery(appearance="stores/other/appearances/a"), "query.appearance"),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(
    any_client: Client, query: history_pb2.AppearanceQuery | None, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await any_client.stub.GetJourney(history_pb2.GetJourneyRequest(parent=STORE, query=query))
    error = from_rpc(raised.value)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0][0] == field
