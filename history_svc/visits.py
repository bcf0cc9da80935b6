"""Zone visits for appearances, from RegionService; without it answers go out without them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray
from poi.v1 import history_pb2, region_pb2, region_pb2_grpc

from history_svc import metrics
from history_svc.translate import nanoseconds, timestamp
from mesh import names

_log = structlog.get_logger(__name__)
_PAGE: Final = 1000
_MAX_PAGES: Final = 5
_MAX_CAMERAS: Final = 1000  # in one request; more are asked for by asking for all


@dataclass(frozen=True, slots=True)
class Stay:
    """A visit and its span; one that goes on ends at the last sight."""

    visit: region_pb2.Visit
    start_ns: int
    end_ns: int


class Found:
    """Visits, by the cameras (names) that saw them."""

    def __init__(self, visits: Iterable[region_pb2.Visit] = (), *, partial: bool = False) -> None:
        self.partial = partial
        """Some may be missing."""
        by_camera: dict[str, list[Stay]] = defaultdict(list)
        for stay in sorted(map(_stay, visits), key=lambda one: (one.start_ns, one.visit.name)):
            for camera in stay.visit.cameras:
                by_camera[camera].append(stay)
        self._by_camera: dict[str, tuple[list[Stay], NDArray[np.int64], NDArray[np.int64]]] = {
            camera: (
                stays,
                np.array([one.start_ns for one in stays], np.int64),
                np.array([one.end_ns for one in stays], np.int64),
            )
            for camera, stays in by_camera.items()
        }

    def during(self, camera: str, start_ns: int, end_ns: int, object_id: str = "") -> list[Stay]:
        """Those that `camera` saw and that overlap [start_ns, end_ns], oldest first.

        With the camera's `object_id` of a person, those of this person as far as the visits' tracks tell: of the people
        whose tracks name it, else without those whom the camera knows by other ids.
        """
        if camera not in self._by_camera:
            return []
        stays, starts, ends = self._by_camera[camera]
        begun = int(np.searchsorted(starts, end_ns, side="right"))
        found = [stays[at] for at in np.flatnonzero(ends[:begun] >= start_ns).tolist()]
        return _of_person(found, f"cam:{camera.rpartition('/')[2]}:", object_id) if object_id else found

    def attach(self, appearances: Iterable[history_pb2.Appearance]) -> None:
        """Fills in `visits` of appearances: those that overlap in time, seen by its camera, of its person if known."""
        for one in appearances:
            stays = self.during(one.camera, nanoseconds(one.start_time), nanoseconds(one.end_time), one.object_id)
            one.visits.extend(stay.visit for stay in stays)


class Visits:
    """Asks RegionService over `channel`, at most `timeout` seconds an answer."""

    def __init__(self, channel: grpc.aio.Channel, store: str, timeout: float) -> None:
        self._region = region_pb2_grpc.RegionServiceStub(channel)
        self._store, self._timeout = store, timeout

    async def find(self, cameras: Collection[str], start_ns: int, end_ns: int) -> Found:
        """The visits that one of the cameras (names) saw and that overlap [start_ns, end_ns].

        Of more than 5000 the earliest are missing.
        """
        request = region_pb2.ListVisitsRequest(
            parent=names.store(self._store),
            cameras=sorted(cameras) if len(cameras) <= _MAX_CAMERAS else (),
            page_size=_PAGE,
        )
        request.interval.start_time.CopyFrom(timestamp(start_ns))
        request.interval.end_time.CopyFrom(timestamp(end_ns + 1))
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout
        visits: list[region_pb2.Visit] = []
        try:
            for _ in range(_MAX_PAGES):
                # Not worth waiting for: an answer without visits is better than one that is late.
                response = await self._region.ListVisits(request, timeout=deadline - clock(), wait_for_ready=False)
                visits += response.visits
                request.page_token = response.next_page_token
                if not request.page_token:
                    return Found(visits)
        except grpc.aio.AioRpcError as error:
            metrics.VISITS_MISSING.inc()
            _log.warning("visits_missing", code=error.code().name, kept=len(visits))
        else:
            _log.warning("visits_cut", kept=len(visits))
        return Found(visits, partial=True)

    async def attach(self, appearances: Sequence[history_pb2.Appearance]) -> None:
        """Fills in `visits` of a page of appearances with one call."""
        if not appearances:
            return
        found = await self.find(
            {one.camera for one in appearances},
            min(nanoseconds(one.start_time) for one in appearances),
            max(nanoseconds(one.end_time) for one in appearances),
        )
        found.attach(appearances)


def _of_person(stays: list[Stay], on_camera: str, object_id: str) -> list[Stay]:
    track = on_camera + object_id
    people = {stay.visit.object_id for stay in stays if track in stay.visit.tracks}
    if people:
        return [stay for stay in stays if stay.visit.object_id in people]
    others = {stay.visit.object_id for stay in stays if any(known.startswith(on_camera) for known in stay.visit.tracks)}
    return [stay for stay in stays if stay.visit.object_id not in others]


def _stay(visit: region_pb2.Visit) -> Stay:
    over = visit.exit_time if visit.HasField("exit_time") else visit.last_seen_time
    return Stay(visit, nanoseconds(visit.enter_time), nanoseconds(over))
