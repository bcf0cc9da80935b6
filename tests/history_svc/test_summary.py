"""What an investigator reads of a search: several photos, the order, and the sum of all hits."""

from collections.abc import Iterable
from itertools import pairwise

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poi.v1 import history_pb2, region_pb2

from history_svc.summary import united
from mesh.errors import FailedPrecondition, InvalidArgument, from_rpc
from tests.history_svc.client import STORE, Client, detection, moment, seconds
from tests.history_svc.conftest import StartHistory
from tests.history_svc.neighbours import Neighbours
from tests.support import embedding, similar, unit

WOMAN = unit(1)
BY_TIME = history_pb2.APPEARANCE_ORDER_TIME


def _request(**fields: object) -> history_pb2.SearchAppearancesRequest:
    return history_pb2.SearchAppearancesRequest(parent=STORE, embedding=embedding(WOMAN), **fields)  # type: ignore[arg-type]


def visit(
    number: int,
    zone: str,
    enter: float,
    leave: float | None,
    cameras: Iterable[str],
    who: str = "uuid-1",
    tracks: Iterable[str] = (),
) -> region_pb2.Visit:
    """A visit; one without an end goes on and was last seen at 500."""
    return region_pb2.Visit(
        name=f"{STORE}/visits/{number}",
        zone=f"{STORE}/scenes/shop/zones/{zone}",
        object_id=who,
        enter_time=moment(enter),
        exit_time=None if leave is None else moment(leave),
        last_seen_time=moment(500 if leave is None else leave),
        cameras=[f"{STORE}/cameras/{camera}" for camera in cameras],
        tracks=tracks,
    )


async def test_of_several_photos_the_most_similar_counts(wired: Client, others: Neighbours) -> None:
    front, side = unit(1), unit(2)
    others.faces = {b"front": [embedding(front)], b"side": [embedding(side)]}
    await wired.append(
        detection(similar(front, 0.8, 3), object_id="from the front"),
        detection(similar(side, 0.7, 4), object_id="from the side"),
        detection(unit(5), object_id="stranger"),
    )

    found = await wired.stub.SearchAppearances(
        history_pb2.SearchAppearancesRequest(parent=STORE, photos=history_pb2.Photos(images=[b"side", b"front"]))
    )

    hits = {hit.appearance.object_id: hit.similarity for hit in found.hits}
    assert hits == pytest.approx({"from the front": 0.8, "from the side": 0.7}, abs=1e-4)


async def test_the_photo_without_a_face_is_named(wired: Client, others: Neighbours) -> None:
    others.faces = {b"woman": [embedding(WOMAN)]}

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wired.stub.SearchAppearances(
            history_pb2.SearchAppearancesRequest(parent=STORE, photos=history_pb2.Photos(images=[b"woman", b"wall"]))
        )

    error = from_rpc(raised.value)
    assert isinstance(error, FailedPrecondition)
    assert error.message.startswith("photos.images[1]: ")
    assert error.metadata["field"] == "photos.images[1]"


@pytest.mark.parametrize("images", [[], [b"x"] * 11, [b"x", b""]])
async def test_one_to_ten_photos_are_needed(any_client: Client, images: list[bytes]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await any_client.stub.SearchAppearances(
            history_pb2.SearchAppearancesRequest(parent=STORE, photos=history_pb2.Photos(images=images))
        )
    error = from_rpc(raised.value)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0][0].startswith("photos.images")


async def test_by_time_the_first_seen_comes_first_over_all_pages(client: Client) -> None:
    cosines = {"noon": 0.6, "morning": 0.9, "evening": 0.7, "night": 0.8}
    times = {"morning": 100, "noon": 200, "evening": 300, "night": 400}
    await client.append(
        *(detection(similar(WOMAN, cosine, 7), at=times[who], object_id=who) for who, cosine in cosines.items())
    )
    request = _request(order=BY_TIME, page_size=1)
    found: list[str] = []
    while True:
        response = await client.stub.SearchAppearances(request)
        found += [hit.appearance.object_id for hit in response.hits]
        request.page_token = response.next_page_token
        if not request.page_token:
            break

    best = await client.stub.SearchAppearances(_request(order=history_pb2.APPEARANCE_ORDER_SIMILARITY))

    assert found == ["morning", "noon", "evening", "night"]
    assert [hit.appearance.object_id for hit in best.hits] == ["morning", "night", "evening", "noon"]


async def test_a_page_token_does_not_fit_another_order(client: Client) -> None:
    await client.append(*(detection(WOMAN, object_id=str(number)) for number in range(3)))
    token = (await client.stub.SearchAppearances(_request(page_size=1))).next_page_token

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.stub.SearchAppearances(_request(page_size=1, order=BY_TIME, page_token=token))

    assert from_rpc(raised.value).reason == "INVALID_PAGE_TOKEN"


async def test_the_summary_is_of_all_hits_and_on_the_first_page(wired: Client, others: Neighbours) -> None:
    await wired.append(
        *(detection(WOMAN, at=at, object_id="a") for at in (100, 110)),
        *(detection(WOMAN, at=at, object_id="b", camera="Camera_02") for at in (50, 55)),
        *(detection(WOMAN, at=at, object_id="c") for at in (200, 205)),
        detection(unit(2), at=900, object_id="stranger", camera="Camera_03"),
    )
    both = ("Camera_01", "Camera_02")
    others.visits = [
        visit(1, "aisle", 95, 105, both),
        visit(2, "aisle", 102, 108, ["Camera_01"], who="uuid-2"),  # 3 s more than the one before
        visit(3, "aisle", 204, 224, ["Camera_01"]),
        visit(4, "entrance", 40, 52, ["Camera_02"]),
        visit(5, "till", 203, None, ["Camera_01"]),
        visit(6, "aisle", 120, 190, ["Camera_01"]),  # while she was not seen
        visit(7, "back", 100, 110, ["Camera_03"]),
    ]

    first = await wired.stub.SearchAppearances(_request(page_size=1))
    second = await wired.stub.SearchAppearances(_request(page_size=1, page_token=first.next_page_token))

    whole = first.summary
    assert (first.total_size, second.total_size, len(first.hits)) == (3, 3, 1)
    assert (seconds(whole.start_time), seconds(whole.end_time)) == (50, 205)
    assert [
        (each.camera.rpartition("/")[2], each.appearance_count, seconds(each.start_time), seconds(each.end_time))
        for each in whole.cameras
    ] == [("Camera_02", 1, 50, 55), ("Camera_01", 2, 100, 205)]
    zones = [
        (each.zone.rpartition("/")[2], each.visit_count, each.dwell.ToMilliseconds() / 1000, list(each.object_ids))
        for each in whole.zones
    ]
    assert zones == [
        ("till", 1, 297, ["uuid-1"]),
        ("aisle", 3, 33, ["uuid-1", "uuid-2"]),
        ("entrance", 1, 12, ["uuid-1"]),
    ]
    assert (seconds(whole.zones[1].start_time), seconds(whole.zones[1].end_time)) == (95, 224)
    assert not whole.visits_partial
    assert not second.HasField("summary")
    # One call each: for all hits, and for those of the page.
    spans = [(seconds(r.interval.start_time), seconds(r.interval.end_time)) for r in others.visit_requests]
    assert spans[0] == (50, 205)
    assert len(spans) == 2


async def test_visits_of_others_are_not_summed_up_where_tracks_tell(wired: Client, others: Neighbours) -> None:
    await wired.append(*(detection(WOMAN, at=at, object_id="7") for at in (100, 110)))
    others.visits = [
        visit(1, "aisle", 95, 105, ["Camera_01"], tracks=["cam:Camera_01:7"]),
        visit(2, "aisle", 102, 120, ["Camera_01"], who="uuid-2", tracks=["cam:Camera_01:8"]),
    ]

    (zone,) = (await wired.stub.SearchAppearances(_request())).summary.zones

    assert (zone.visit_count, zone.dwell.seconds, list(zone.object_ids)) == (1, 10, ["uuid-1"])


async def test_more_visits_than_are_looked_at_are_said_to_be_missing(wired: Client, others: Neighbours) -> None:
    await wired.append(detection(WOMAN, at=100))
    others.visits = [visit(number, f"z{number}", 90, 110, ["Camera_01"]) for number in range(5001)]

    found = await wired.stub.SearchAppearances(_request())

    assert found.summary.visits_partial
    assert len(found.summary.zones) == len(found.hits[0].appearance.visits) == 5000
    assert len(others.visit_requests) == 5
    others.visits.pop()
    assert not (await wired.stub.SearchAppearances(_request())).summary.visits_partial


async def test_a_region_service_that_is_late_costs_its_part_only(start: StartHistory, others: Neighbours) -> None:
    others.visits = [visit(1, "aisle", 90, 110, ["Camera_01"])]
    others.visits_ready.clear()
    server = start({"POI_REGION_TARGET": others.target})
    async with Client(server.target) as client:
        await client.append(detection(WOMAN, at=100))

        found = await client.stub.SearchAppearances(_request())

    assert found.summary.visits_partial
    assert not found.summary.zones
    assert found.summary.cameras[0].appearance_count == len(found.hits) == 1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda pair: (pair[0], sum(pair)))))
def test_united_spans_cover_the_same_and_are_apart(spans: list[tuple[int, int]]) -> None:
    whole = united(spans)

    def covered(some: list[tuple[int, int]]) -> set[float]:
        return {at / 2 for at in range(110) if any(start <= at / 2 <= end for start, end in some)}

    assert covered(whole) == covered(spans)
    assert all(before[1] < after[0] for before, after in pairwise(whole))
