"""A person of interest is moved from one watchlist to another while cameras see them all the time."""

from __future__ import annotations

import time

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import common_pb2, poi_pb2, watchlist_pb2, watchlist_pb2_grpc

from mesh import channels
from tests.e2e.floor import floor
from tests.e2e.store import Store
from tests.e2e.story import Window
from tests.e2e.stream import Stream
from tests.support import unit

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

ANNE = unit(921)
LEFT, JOINED = "off-the-list", "on-the-list"


async def test_who_leaves_a_list_in_the_middle_of_a_stream_alerts_no_more_where_it_applies(store: Store) -> None:
    async with (
        floor(store, Window(int(time.time()) - 1)) as here,
        channels.connect(store.mesh.target("match")) as channel,
    ):
        lists: watchlist_pb2_grpc.WatchlistServiceAsyncStub = watchlist_pb2_grpc.WatchlistServiceStub(channel)
        names = {}
        for camera in (LEFT, JOINED):  # each list is for one camera
            made = watchlist_pb2.Watchlist(
                display_name=camera,
                severity=common_pb2.SEVERITY_HIGH,
                cameras=[f"{here.parent}/cameras/{camera}"],
            )
            names[camera] = (
                await lists.CreateWatchlist(
                    watchlist_pb2.CreateWatchlistRequest(parent=here.parent, watchlist=made, watchlist_id=camera)
                )
            ).name
        anne = await here.enrol("anne", ANNE, watchlists=[names[LEFT]])
        async with Stream(here, LEFT, ANNE) as left, Stream(here, JOINED, ANNE) as joined:
            await left.alerting()
            before = await joined.matched()
            moved = poi_pb2.Poi(name=anne.name, watchlists=[names[JOINED]])
            await here.client.pois_service.UpdatePoi(
                poi_pb2.UpdatePoiRequest(poi=moved, update_mask=FieldMask(paths=["watchlists"]))
            )
            gone, there = left.shown, joined.shown
            await joined.shows_more(20)
            enough = joined.shown

        assert await left.alerts_of("anne") <= set(range(gone)), "nobody alerts whose face came after the answer"
        numbers = await joined.alerts_of("anne")
        assert set(range(there, enough)) <= numbers, "all do where she is looked for now"
        assert numbers.isdisjoint(range(before)), "and nobody did before"
        assert {one.match.severity for one in await here.alerts(LEFT, JOINED)} == {common_pb2.SEVERITY_HIGH}
        await here.client.forget("anne")
        for name in names.values():
            await lists.DeleteWatchlist(watchlist_pb2.DeleteWatchlistRequest(name=name))
