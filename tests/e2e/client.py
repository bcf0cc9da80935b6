"""A client of the whole mesh, through the contracts alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    common_pb2,
    history_pb2,
    history_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)

from mesh import channels, names
from tests.support import embedding
from tests.support.vectors import Vector

_POLL_S = 0.05


class Servers(Protocol):
    """A running mesh, of one server a service or of several."""

    @property
    def services(self) -> Mapping[str, object]:
        """By name."""

    def target(self, service: str) -> str:
        """Where a service is."""


class Client:
    """Use as an async context manager."""

    def __init__(self, mesh: Servers, store: str) -> None:
        self._parent = names.store(store)
        opened = {name: channels.connect(mesh.target(name)) for name in mesh.services if name != "embed"}
        self._channels = list(opened.values())
        self.pois_service: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(opened["match"])
        self.history: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(opened["history"])
        self.region: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(opened["region"])
        self.alert: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(opened["alert"])
        self.ingest: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(opened["ingest"])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def pois(self) -> set[str]:
        """Ids of all who are enrolled."""
        response = await self.pois_service.ListPois(poi_pb2.ListPoisRequest(parent=self._parent, page_size=1000))
        assert not response.next_page_token
        return {poi.name.rpartition("/")[2] for poi in response.pois}

    async def forget(self, poi_id: str) -> None:
        """Delete a person of interest."""
        await self.pois_service.DeletePoi(poi_pb2.DeletePoiRequest(name=f"{self._parent}/pois/{poi_id}"))

    async def alerts(self) -> list[alert_pb2.Alert]:
        """All that are kept, page by page."""
        found: list[alert_pb2.Alert] = []
        request = alert_pb2.ListAlertsRequest(parent=self._parent, page_size=100)
        while True:
            page = await self.alert.ListAlerts(request)
            found += page.alerts
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def appearances(self, interval: common_pb2.Interval, *cameras: str) -> list[history_pb2.Appearance]:
        """Those within the interval, on all cameras or the ones given by their ids."""
        found: list[history_pb2.Appearance] = []
        request = history_pb2.ListAppearancesRequest(
            parent=self._parent,
            interval=interval,
            cameras=[f"{self._parent}/cameras/{camera}" for camera in cameras],
            page_size=1000,
        )
        while True:
            page = await self.history.ListAppearances(request)
            found += page.appearances
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def look_for(self, face: Vector, interval: common_pb2.Interval) -> list[history_pb2.Appearance]:
        """The appearances of a face within the interval."""
        response = await self.history.SearchAppearances(
            history_pb2.SearchAppearancesRequest(
                parent=self._parent, embedding=embedding(face), interval=interval, page_size=1000
            )
        )
        return [hit.appearance for hit in response.hits]

    async def visits(self, interval: common_pb2.Interval) -> list[region_pb2.Visit]:
        """Those within the interval."""
        response = await self.region.ListVisits(
            region_pb2.ListVisitsRequest(parent=self._parent, interval=interval, page_size=1000)
        )
        assert not response.next_page_token
        return list(response.visits)

    async def ingest_status(self) -> ingest_pb2.IngestStatus:
        """What ingest says of itself."""
        return await self.ingest.GetIngestStatus(ingest_pb2.GetIngestStatusRequest(name=f"{self._parent}/ingestStatus"))

    async def rejections(self, topic: str) -> list[ingest_pb2.Rejection]:
        """Those of one topic, oldest first."""
        response = await self.ingest.ListRejections(
            ingest_pb2.ListRejectionsRequest(parent=self._parent, page_size=1000)
        )
        return [rejection for rejection in reversed(response.rejections) if rejection.topic == topic]

    def follow_alerts(self) -> Follower[alert_pb2.StreamAlertsResponse]:
        """A client that watches for alerts from now on."""
        return Follower(
            lambda cursor: (
                self.alert.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=self._parent, cursor=cursor))
                if cursor
                else self.alert.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=self._parent))
            ),
            alert_pb2.ALERT_EVENT_HEARTBEAT,
        )

    def follow_visits(self) -> Follower[region_pb2.WatchVisitsResponse]:
        """A client that watches entries and exits from now on."""
        return Follower(
            lambda cursor: self.region.WatchVisits(region_pb2.WatchVisitsRequest(parent=self._parent, cursor=cursor)),
            region_pb2.VISIT_EVENT_HEARTBEAT,
        )


class _Told(Protocol):
    event: Any
    cursor: str


R = TypeVar("R", bound=_Told)


class Follower(Generic[R]):
    """Sees a resumable stream through: whenever it is cut off, it goes on after its last cursor."""

    def __init__(self, open_call: Callable[[str], AsyncIterable[R]], heartbeat: int) -> None:
        self._open_call = open_call
        self._heartbeat = heartbeat
        self._moved = asyncio.Condition()
        self._silences = 0  # heartbeats that ended a silence; the first response of a call does not say that much
        self.cursor = ""
        self.seen: list[R] = []
        """Everything but heartbeats, in order."""
        self.interruptions = 0

    async def run(self) -> None:
        """Follow until cancelled. An end by anything but UNAVAILABLE is an error."""
        while True:
            first = True
            try:
                async for response in self._open_call(self.cursor):
                    self.cursor = response.cursor
                    async with self._moved:
                        if response.event != self._heartbeat:
                            self.seen.append(response)
                        elif not first:
                            self._silences += 1
                        self._moved.notify_all()
                    first = False
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            self.interruptions += 1
            await asyncio.sleep(_POLL_S)

    async def until_live(self) -> None:
        """Returns once nothing can be missed."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.cursor)

    async def until_silent(self) -> None:
        """Returns once the stream has nothing more to tell: all that was durable before this call has been seen."""
        async with self._moved:
            enough = self._silences + 2  # the next one may already have been on its way
            await self._moved.wait_for(lambda: self._silences >= enough)


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
    """Returns when the condition holds; fails after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - the other side is another process
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


def seconds(moment: Timestamp) -> float:
    """Seconds since the epoch."""
    return moment.ToNanoseconds() / 1e9
