"""ListAppearances and GetAppearance."""

import grpc
import pytest
from poi.v1 import common_pb2, history_pb2

from mesh.errors import NotFound, from_rpc
from tests.history_svc.client import STORE, Client, detection, moment

pytestmark = pytest.mark.both_stores


async def test_appearances_are_listed_newest_first_within_interval_and_cameras(client: Client) -> None:
    await client.append(
        *(
            detection(at=begin + at, object_id=str(begin), camera=f"Camera_{begin // 20 % 2}")
            for begin in range(0, 200, 20)
            for at in (0, 8)
        )
    )

    async def listed(start: float | None, end: float | None, *cameras: str) -> list[int]:
        interval = common_pb2.Interval(
            start_time=None if start is None else moment(start), end_time=None if end is None else moment(end)
        )
        names = [f"{STORE}/cameras/{camera}" for camera in cameras]
        return [int(one.object_id) for one in await client.appearances(interval=interval, cameras=names)]

    assert await listed(None, None) == list(range(180, -1, -20))
    assert await listed(None, None, "Camera_0") == [160, 120, 80, 40, 0]
    assert await listed(45, 100) == [80, 60, 40], "from the start, to before the end, whatever overlaps"
    assert await listed(48, 100.001, "Camera_1") == [100, 60]
    assert await listed(48.001, 80) == [60]
    assert await listed(1000, None) == []


async def test_pages_of_a_list_fit_together_while_it_grows(client: Client) -> None:
    await client.append(*(detection(at=at * 20, object_id="1") for at in range(10)))
    request = history_pb2.ListAppearancesRequest(parent=STORE, page_size=3)
    names = []
    for number in range(4):
        response = await client.stub.ListAppearances(request)
        names += [one.name for one in response.appearances]
        request.page_token = response.next_page_token
        await client.append(detection(at=1000 + number * 20, object_id="1"))

    assert not request.page_token
    assert len(set(names)) == len(names) == 10


async def test_an_appearance_is_read_by_its_name(client: Client) -> None:
    stored = (await client.append(detection(at=0), detection(at=1))).stored[1]

    found = await client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=stored.appearance))

    assert (found.name, found.detection_count) == (stored.appearance, 2)
    assert not found.HasField("best")


@pytest.mark.parametrize(
    "name", [f"{STORE}/appearances/{'0' * 32}", f"{STORE}/appearances/x", "stores/o/appearances/x"]
)
async def test_an_appearance_that_is_not_there_is_not_found(any_client: Client, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await any_client.stub.GetAppearance(history_pb2.GetAppearanceRequest(name=name))
    assert isinstance(from_rpc(raised.value), NotFound)
