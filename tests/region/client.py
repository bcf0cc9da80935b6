"""A client of the region service, as plain as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
from google.rpc import status_pb2
from poi.v1 import region_pb2, region_pb2_grpc

from mesh.channels import connect
from mesh.errors import from_status
from tests.support import Truth

Stub: TypeAlias = "region_pb2_grpc.RegionServiceAsyncStub"  # in its stub file only

STORE = "stores/store-1"
SCENE = f"{STORE}/scenes/db68a737-92db-4477-880b-07bc7d658ab9"
START = 1_795_165_200.0
"""Beginning of the recording, epoch seconds."""

Row = tuple[str, str, float, float]
"""(object, zone, entry, exit), in seconds after the recording's beginning."""
Seen = tuple[int, str]
"""(event, visit name)"""


@asynccontextmanager
async def client(target: str) -> AsyncIterator[Stub]:
    """A stub that is closed at the end."""
    async with connect(target) as channel:
        yield region_pb2_grpc.RegionServiceStub(channel)


async def record(stub: Stub, updates: Sequence[region_pb2.SceneUpdate], batch: int = 1) -> None:
    """Send the updates in batches on one stream; each must be answered in order and without a refusal."""
    starts = range(0, len(updates), batch)
    call = stub.RecordSceneUpdates(
        region_pb2.RecordSceneUpdatesRequest(parent=STORE, batch_id=start, updates=updates[start : start + batch])
        for start in starts
    )
    answers = [answer async for answer in call]
    assert [answer.batch_id for answer in answers] == list(starts)
    assert not any(answer.errors for answer in answers)


async def record_through_outages(
    stub: Stub, updates: Sequence[region_pb2.SceneUpdate], disturb: Mapping[int, Callable[[], Awaitable[None]]]
) -> set[str]:
    """Send the updates one by one, each until it is answered, as the ingest service does.

    `disturb` is called once that update is sent and not answered yet. Returns the reasons why streams ended.
    """
    reasons = set()
    call = stub.RecordSceneUpdates()
    for index, update in enumerate(updates):
        pending = [disturb[index]] if index in disturb else []
        while True:
            try:
                await call.write(region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=[update]))
                while pending:
                    await pending.pop()()
                answer = await call.read()
                if isinstance(answer, region_pb2.RecordSceneUpdatesResponse):
                    assert not answer.errors
                    break
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the stream has ended: its status says why
            assert await call.code() is grpc.StatusCode.UNAVAILABLE, await call.details()
            for key, value in await call.trailing_metadata() or ():
                if key == "grpc-status-details-bin" and isinstance(value, bytes):
                    reasons.add(from_status(status_pb2.Status.FromString(value)).reason)
            call = stub.RecordSceneUpdates()
    await call.done_writing()
    return reasons


async def visits(stub: Stub, request: region_pb2.ListVisitsRequest | None = None) -> list[region_pb2.Visit]:
    """All pages."""
    request = request or region_pb2.ListVisitsRequest(parent=STORE)
    found: list[region_pb2.Visit] = []
    while True:
        page = await stub.ListVisits(request)
        found += page.visits
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


class Watcher:
    """Follows the event log through every outage, from one cursor on."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.cursor = ""
        self.events: list[Seen] = []
        self.visits: dict[str, region_pb2.Visit] = {}
        self.started = asyncio.Event()

    async def until(self, count: int) -> None:
        """Watch until so many events were seen."""
        while len(self.events) < count:
            call = self._stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=STORE, cursor=self.cursor))
            try:
                async for response in call:
                    self.cursor = response.cursor
                    self.started.set()
                    if response.event != region_pb2.VISIT_EVENT_HEARTBEAT:
                        self.events.append((response.event, response.visit.name))
                        self.visits[response.visit.name] = response.visit
                    if len(self.events) == count:
                        call.cancel()
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise


def rows(found: Sequence[region_pb2.Visit]) -> list[Row]:
    """What counts of closed visits, sorted."""
    return sorted(
        (
            visit.object_id,
            visit.zone.rpartition("/")[2],
            visit.enter_time.ToNanoseconds() / 1e9 - START,
            visit.exit_time.ToNanoseconds() / 1e9 - START,
        )
        for visit in found
        if visit.state == region_pb2.VISIT_STATE_CLOSED
    )


def check_truth(found: Sequence[region_pb2.Visit], truth: Truth) -> None:
    """Exactly the visits of the truth, each entry, exit and dwell right to half a second."""
    wanted = sorted((dwell.object, dwell.zone, dwell.enter_s, dwell.exit_s) for dwell in truth.dwell)
    got = rows(found)
    assert [row[:2] for row in got] == [row[:2] for row in wanted]
    for (*_, enter, exit), (*_, enter_wanted, exit_wanted) in zip(got, wanted, strict=True):
        assert abs(enter - enter_wanted) <= 0.5
        assert abs(exit - exit_wanted) <= 0.5
    for visit in found:
        dwell = visit.exit_time.ToNanoseconds() - visit.enter_time.ToNanoseconds()
        assert visit.dwell.ToNanoseconds() == dwell
