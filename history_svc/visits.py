"""Zone visits for appearances, from RegionService; without it answers go out without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import grpc
import structlog
from poi.v1 import history_pb2, region_pb2, region_pb2_grpc

from history_svc import metrics
from history_svc.translate import nanoseconds, timestamp
from mesh import names

_log = structlog.get_logger(__name__)
_MAX_VISITS = 1000


class Visits:
    """Asks RegionService over `channel`, at most `timeout` seconds a page."""

    def __init__(self, channel: grpc.aio.Channel, store: str, timeout: float) -> None:
        self._region = region_pb2_grpc.RegionServiceStub(channel)
        self._store, self._timeout = store, timeout

    async def attach(self, appearances: Sequence[history_pb2.Appearance]) -> None:
        """Fills in `visits` of a page of appearances with one call: those that overlap in time, seen by its camera.

        A page's span may have more visits than one answer holds (1000): then the earliest are missing.
        """
        if not appearances:
            return
        request = region_pb2.ListVisitsRequest(
            parent=names.store(self._store),
            cameras=sorted({one.camera for one in appearances}),
            page_size=_MAX_VISITS,
        )
        request.interval.start_time.CopyFrom(timestamp(min(nanoseconds(one.start_time) for one in appearances)))
        request.interval.end_time.CopyFrom(timestamp(max(nanoseconds(one.end_time) for one in appearances) + 1))
        try:
            # Not worth waiting for: an answer without visits is better than one that is late.
            response = await self._region.ListVisits(request, timeout=self._timeout, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            metrics.VISITS_MISSING.inc()
            _log.warning("visits_missing", code=error.code().name)
            return
        if response.next_page_token:
            _log.warning("visits_cut", kept=len(response.visits))
        by_camera: dict[str, list[region_pb2.Visit]] = defaultdict(list)
        for visit in response.visits:
            for camera in visit.cameras:
                by_camera[camera].append(visit)
        for one in appearances:
            start, end = nanoseconds(one.start_time), nanoseconds(one.end_time)
            found = [visit for visit in by_camera[one.camera] if _overlaps(visit, start, end)]
            one.visits.extend(sorted(found, key=lambda visit: (nanoseconds(visit.enter_time), visit.name)))


def _overlaps(visit: region_pb2.Visit, start_ns: int, end_ns: int) -> bool:
    over = visit.exit_time if visit.HasField("exit_time") else visit.last_seen_time
    return nanoseconds(visit.enter_time) <= end_ns and nanoseconds(over) >= start_ns
