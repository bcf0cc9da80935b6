"""`poi.v1.RegionService`: translates requests and answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from poi.v1 import common_pb2, region_pb2, region_pb2_grpc

from history_svc.region.keys import Keys
from history_svc.region.messages import (
    add_interval,
    read_filter,
    read_interval,
    read_update,
    read_zones,
    write_occupancy,
    write_visit,
)
from history_svc.region.model import Event, Update
from history_svc.region.query import Position, VisitQuery
from history_svc.region.recorder import Recorder
from history_svc.region.store import SceneStore, event_of
from mesh import names, pages
from mesh.errors import InvalidArgument, MeshError, NotFound, to_status
from mesh.redis import Redis
from mesh.streams import until_drained
from mesh.tail import REWRITTEN, StreamTail

SERVICE = "poi.v1.RegionService"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_MAX_UPDATES = 256
_MOST_ANSWERED = 4 * _MAX_UPDATES
"""Updates that are answered one by one. A message holds millions of empty ones, and a refusal takes fifty times the
room of one."""
_EVENTS = {Event.ENTERED: region_pb2.VISIT_EVENT_ENTERED, Event.EXITED: region_pb2.VISIT_EVENT_EXITED}


class RegionServicer(region_pb2_grpc.RegionServiceServicer):
    """Hands updates to the recorder, and reads what it wrote. Any process of the service can answer any reader."""

    def __init__(
        self,
        redis: Redis,
        recorder: Recorder,
        draining: asyncio.Event,
        *,
        heartbeat: float,
        max_ahead: float,
    ) -> None:
        """`heartbeat` and `max_ahead` in seconds; `draining` ends streams (`mesh.server.Server.draining`)."""
        self._redis = redis
        self._recorder = recorder
        self._draining = draining
        self._heartbeat = heartbeat
        self._max_ahead_ms = round(max_ahead * 1000)
        self._scenes = SceneStore(redis)
        self._visits = VisitQuery(redis)
        self._tails: dict[str, StreamTail] = {}

    async def RecordSceneUpdates(
        self, request_iterator: AsyncIterator[region_pb2.RecordSceneUpdatesRequest], context: Context
    ) -> AsyncIterator[region_pb2.RecordSceneUpdatesResponse]:
        """One answer a batch, when it is durable."""
        async with aclosing(until_drained(request_iterator, self._draining)) as requests:
            async for request in requests:
                yield await self._record(request)

    async def ListVisits(
        self, request: region_pb2.ListVisitsRequest, context: Context
    ) -> region_pb2.ListVisitsResponse:
        """One page, newest entry first."""
        (store,) = names.parse_store(request.parent)
        wanted = read_filter(store, request)
        token = pages.decode(request.page_token, request, enter=pages.whole, id=pages.text)
        after = Position(**token) if token else None
        size = pages.clamp(request.page_size, 50, 1000)
        visits, following = await self._visits.page(store, wanted, size, after)
        return region_pb2.ListVisitsResponse(
            visits=[write_visit(store, visit) for visit in visits],
            next_page_token=pages.encode(following._asdict(), request) if following else "",
        )

    async def GetOccupancy(self, request: region_pb2.GetOccupancyRequest, context: Context) -> region_pb2.Occupancy:
        """Who is where now, and who was over an interval."""
        store, scene = names.parse_scene(request.name.removesuffix("/occupancy"))
        snapshot = await self._scenes.occupancy(store, scene)
        if not snapshot.version:
            raise NotFound(request.name)
        inside = [visit for visit in snapshot.state.visits if visit.exit is None]
        latest = snapshot.state.latest
        occupancy = write_occupancy(store, scene, latest, snapshot.zones, inside)
        if request.HasField("interval"):
            start, end = read_interval(request.interval)
            if start is None:
                raise InvalidArgument(violations=[("interval.start_time", "is required")])
            end = latest if end is None or latest is None else min(end, latest)
            if end is not None and start < end:
                found = await self._visits.occupancies(store, scene, snapshot.zones, start, end)
                add_interval(
                    occupancy, start, end, {names.zone(store, scene, zone): one for zone, one in found.items()}
                )
        return occupancy

    async def WatchVisits(
        self, request: region_pb2.WatchVisitsRequest, context: Context
    ) -> AsyncIterator[region_pb2.WatchVisitsResponse]:
        """Entries and exits from the cursor on, each once."""
        (store,) = names.parse_store(request.parent)
        zones = read_zones(store, request.zones)
        tail = self._tail(store)
        # Known before the first event: who loses the stream right away resumes from here.
        cursor = request.cursor or await tail.position()
        async with (
            aclosing(tail.entries(cursor)) as entries,
            aclosing(until_drained(entries, self._draining)) as undrained,
        ):
            clock = asyncio.get_running_loop().time
            told = clock()
            async for entry in undrained:
                if entry is not None:
                    cursor, fields = entry
                    if REWRITTEN in fields:  # for `mesh.tail`
                        continue
                    event, visit = event_of(fields)
                    if not zones or (visit.scene, visit.zone) in zones:
                        yield region_pb2.WatchVisitsResponse(
                            event=_EVENTS[event], visit=write_visit(store, visit), cursor=cursor
                        )
                        told = clock()
                # Other zones' events are silence to this client: it hears a heartbeat, and its cursor moves on.
                if entry is None or clock() >= told + self._heartbeat:
                    yield region_pb2.WatchVisitsResponse(event=region_pb2.VISIT_EVENT_HEARTBEAT, cursor=cursor)
                    told = clock()

    async def _record(self, request: region_pb2.RecordSceneUpdatesRequest) -> region_pb2.RecordSceneUpdatesResponse:
        if len(request.updates) > _MOST_ANSWERED:
            raise InvalidArgument(
                violations=[("updates", f"has {len(request.updates)} items: {_MAX_UPDATES} are a batch")],
                reason="BATCH_TOO_LARGE",
            )
        response = region_pb2.RecordSceneUpdatesResponse(batch_id=request.batch_id)
        now = time.time_ns() // 1_000_000
        scenes: dict[str, list[Update]] = {}
        store = ""
        for index, message in enumerate(request.updates):
            try:
                if index >= _MAX_UPDATES:
                    raise InvalidArgument(violations=[("updates", f"must be at most {_MAX_UPDATES}")])
                (store,) = names.parse_store(request.parent)
                scene, update = read_update(store, message, now, self._max_ahead_ms)
            except MeshError as error:
                response.errors.append(
                    common_pb2.ItemError(index=index, item_id=message.scene[:256], status=to_status(error))
                )
            else:
                scenes.setdefault(scene, []).append(update)
        for scene, updates in scenes.items():
            await self._recorder.record(store, scene, updates)
        return response

    def _tail(self, store: str) -> StreamTail:
        tail = self._tails.get(store)
        if tail is None:
            tail = self._tails[store] = StreamTail(self._redis, Keys(store).events, heartbeat=self._heartbeat)
        return tail
