"""What every service that keeps something of people serves for the eraser (`mesh.erasure`): `TraceService`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import structlog
from poi.v1 import erasure_pb2, erasure_pb2_grpc

from mesh import names
from mesh.purging import purge
from mesh.redis import Redis

SERVICE: Final = "poi.v1.TraceService"
_log = structlog.get_logger(__name__)


class Keeper(Protocol):
    """Keeps something of people. `store` is the id of the store that is meant; another store's has nothing."""

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """What there is of the person, and what else is known of them. MUST leave out what is erased already."""

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """Erases all that `find` lists, durably; why not all of it could be, in words that name nobody.

        MUST bear being repeated, and MUST see to it that what is under way in its service does not come back.
        """


class TraceServicer(erasure_pb2_grpc.TraceServiceServicer):
    """Serves a keeper."""

    def __init__(self, keeper: Keeper, redis: Redis | None = None) -> None:
        """`redis`: where the keeper keeps it, if there."""
        self._keeper, self._redis = keeper, redis

    async def FindTraces(self, request: erasure_pb2.FindTracesRequest, context: Any) -> erasure_pb2.FindTracesResponse:
        """See Keeper.find."""
        (store,) = names.parse_store(request.parent)
        return await self._keeper.find(store, request)

    async def EraseTraces(
        self, request: erasure_pb2.EraseTracesRequest, context: Any
    ) -> erasure_pb2.EraseTracesResponse:
        """See Keeper.erase."""
        (store,) = names.parse_store(request.parent)
        obstacles = await self._keeper.erase(store, request.subject, request.erasure)
        if request.purge and not obstacles and self._redis is not None:
            obstacles = await purge(self._redis, request.purge)
        _log.info("traces_erased", erasure=request.erasure, obstacles=len(obstacles))
        return erasure_pb2.EraseTracesResponse(obstacles=obstacles)


def found(
    counts: Mapping[str, int],
    *,
    names_of: Iterable[str] = (),
    remainders: Iterable[erasure_pb2.Remainder] = (),
    subject: erasure_pb2.TraceSubject | None = None,
) -> erasure_pb2.FindTracesResponse:
    """What `find` answers; kinds of which there is nothing are left out."""
    return erasure_pb2.FindTracesResponse(
        subject=subject,
        traces=[erasure_pb2.TraceCount(kind=kind, count=count) for kind, count in counts.items() if count],
        remainders=remainders,
        names=sorted(names_of),
    )


def added_to(subject: erasure_pb2.TraceSubject, more: erasure_pb2.TraceSubject) -> None:
    """Adds to a subject what else is known of the person."""
    subject.poi = subject.poi or more.poi
    for field in ("references", "appearances", "frames"):
        known: Any = getattr(subject, field)
        known.extend(sorted(set(getattr(more, field)) - set(known)))
    spans = {span.SerializeToString(deterministic=True) for span in subject.tracks}
    subject.tracks.extend(span for span in more.tracks if span.SerializeToString(deterministic=True) not in spans)
