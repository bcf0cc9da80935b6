"""The region service is killed while it erases: whoever is asked again finds what is left."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import erasure_pb2
from redis.exceptions import ConnectionError as Lost

from history_svc.region.keys import Keys
from history_svc.region.model import Event, Visit, encode
from history_svc.region.traces import RegionTraces
from mesh import redis as connections
from mesh.tail import REWRITTEN

PARENT, STORE = "stores/s1", "s1"
SUBJECT = erasure_pb2.TraceSubject(
    tracks=[
        erasure_pb2.TrackSpan(
            camera=f"{PARENT}/cameras/door",
            object_id="7",
            start_time=Timestamp(seconds=1),
            end_time=Timestamp(seconds=9),
        )
    ]
)


@pytest.mark.parametrize("calls", range(4))
async def test_no_event_of_a_visit_is_left_behind_by_a_crash(redis_url: str, calls: int) -> None:
    client = connections.connect(redis_url)
    keys, visit = Keys(STORE), Visit("hall", "aisle", "p", 2000, 3000, 4000, ("door",), ("cam:door:7",))
    await client.hset(keys.visits, visit.id, encode(visit))
    for event in Event:
        await client.xadd(keys.events, {"event": event.value, "id": visit.id, "visit": encode(visit)})
    keeper: Any = RegionTraces(client)
    request = erasure_pb2.FindTracesRequest(parent=PARENT, subject=SUBJECT)
    assert {one.kind: one.count for one in (await keeper.find(STORE, request)).traces} == {
        "visits to zones": 1, "events of visits": 2,
    }  # fmt: skip
    made = 0

    def cutting_off(call: Any) -> Any:
        async def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made > calls:
                raise Lost
            return await call(*args, **kwargs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "_drop_events", cutting_off(keeper._drop_events))
        patch.setattr(keeper, "_erase", cutting_off(keeper._erase))
        try:
            await keeper.erase(STORE, SUBJECT, "e")
        except Lost:
            assert calls < 3
    await RegionTraces(client).erase(STORE, SUBJECT, "e")

    assert not (await keeper.find(STORE, request)).traces
    left: Any = await client.xrange(keys.events)
    assert [set(fields) for _, fields in left] == [{REWRITTEN}], "or nobody would find them any more"
    assert await client.hlen(keys.visits) == 0
    await client.aclose()
