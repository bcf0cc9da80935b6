"""ImportPois: row by row, in order, and a wrong row costs itself."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import poi_pb2

from mesh.errors import from_rpc
from tests.match_svc.standin import StandIn, picture, standing_in
from tests.match_svc.support import STORE, Replica, reason_and_fields, replica
from tests.support import embedding, unit, valid_poi


@pytest.fixture
async def eyes() -> AsyncIterator[StandIn]:
    async with standing_in() as running:
        yield running


@pytest.fixture
async def one(redis_url: str, eyes: StandIn) -> AsyncIterator[Replica]:
    async with replica(redis_url, embed_target=eyes.target) as running:
        yield running


def row(number: int, **fields: object) -> poi_pb2.ImportPoisRequest:
    given = {"parent": STORE, "poi": valid_poi(), "poi_id": f"p{number}", "request_id": f"r{number}", **fields}
    if not given.keys() & {"images", "embeddings"}:
        given["embeddings"] = [embedding(unit(number))]
    return poi_pb2.ImportPoisRequest(row_id=f"row {number}", request=poi_pb2.CreatePoiRequest(**given))  # type: ignore[arg-type]


async def imported(one: Replica, *rows: poi_pb2.ImportPoisRequest) -> list[str]:
    """Of each answer the person, or the reason and fields of its error."""
    answers = [answer async for answer in one.pois.ImportPois(iter(rows))]
    assert [answer.row_id for answer in answers] == [each.row_id for each in rows]
    found = []
    for answer in answers:
        reason, fields = reason_and_fields(answer.error)
        found.append(" ".join([reason, *sorted(fields)]) if reason else answer.poi.name.rpartition("/")[2])
    return found


async def test_a_wrong_row_costs_itself(one: Replica, eyes: StandIn) -> None:
    eyes.qualities[7] = []

    answers = await imported(
        one,
        row(1),
        row(2, poi=valid_poi(expire_time=Timestamp(seconds=1))),
        row(3, poi=valid_poi(threshold=7)),
        row(4, parent="shop"),
        row(5, images=[picture(5)]),
        row(6, images=[b"no image"]),
        row(7, images=[picture(7)]),
        poi_pb2.ImportPoisRequest(row_id="nothing"),
        row(8, poi_id="p1"),
        row(9, embeddings=[embedding(unit(1))]),
        row(10),
    )

    assert answers == [
        "p1",
        "INVALID_ARGUMENT poi.expire_time",
        "INVALID_ARGUMENT poi.threshold",
        "INVALID_ARGUMENT parent",
        "p5",
        "IMAGE_UNDECODABLE images[0]",
        "NO_FACE",
        "INVALID_ARGUMENT request",
        "RESOURCE_EXISTS",
        "LIKELY_DUPLICATE",
        "p10",
    ]
    assert (await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 3


async def test_a_row_that_was_enrolled_before_is_answered_as_it_was(one: Replica) -> None:
    rows = [row(number, poi_id="") for number in range(5)]
    first = await imported(one, *rows[:3])

    assert (await imported(one, *rows))[:3] == first
    assert (await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 5


async def test_an_import_goes_on_at_another_replica_when_this_one_drains(redis_url: str) -> None:
    async with replica(redis_url) as going, replica(redis_url) as staying:
        answered: list[poi_pb2.ImportPoisResponse] = []

        async def rows() -> AsyncIterator[poi_pb2.ImportPoisRequest]:
            for number in range(3):
                yield row(number)
            await asyncio.Event().wait()

        async def until_it_drains() -> None:
            async for answer in going.pois.ImportPois(rows()):
                answered.append(answer)
                if len(answered) == 3:
                    going.server.draining.set()

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await until_it_drains()
        assert from_rpc(raised.value).reason == "DRAINING"

        rest = await imported(staying, *(row(number) for number in range(len(answered), 6)))
        assert rest == ["p3", "p4", "p5"]
        assert (await staying.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 6
