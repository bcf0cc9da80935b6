"""What the region service keeps of a person, for the eraser: visits of the people whose tracks name what cameras saw.

A scene controller knows people by ids of its own. Which of them it was is known where it names the cameras' tracks. Of
other visits that the same camera saw at the same time nobody can tell whose they are: these stay, and are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from poi.v1 import erasure_pb2

from history_svc.region.keys import Keys
from history_svc.region.model import Visit, decode
from history_svc.region.scripts import ERASE
from history_svc.region.store import end_key, event_of
from mesh import names
from mesh.redis import Redis
from mesh.tail import REWRITTEN
from mesh.traces import found

_PAGE: Final = 500
_SAME_PERSON_MS: Final = 3_600_000
"""Visits of a person of the scene within so long are of one person: controllers may give ids out again, not so soon."""


class _Span(NamedTuple):
    camera: str
    track: str
    start_ms: int
    end_ms: int


class RegionTraces:
    """`mesh.traces.Keeper` of the region service."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._erase = redis.register_script(ERASE)

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See Keeper."""
        visits, unknown = await self._visits(store, request.subject)
        events = await self._events(store, visits)
        remainders = [
            erasure_pb2.Remainder(
                kind="visits to zones of somebody",
                count=unknown,
                reason="nobody can tell whose they are: the scene controller names no track of a camera; "
                "an id, a zone and times, and no face",
            )
        ]
        return found(
            {"visits to zones": len(visits), "events of visits": len(events)},
            names_of=(names.visit(store, visit.id) for visit in visits),
            remainders=remainders if unknown else (),
        )

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """See Keeper. A recorder that has them in memory finds its scene changed, and reads it again."""
        visits, _ = await self._visits(store, subject)
        await self._drop_events(store, visits)  # first: they are found through the visits, also after a crash
        keys = Keys(store)
        for visit in visits:
            await self._erase(
                keys=[
                    keys.visits,
                    keys.index,
                    keys.lasting,
                    keys.closed,
                    keys.scene(visit.scene),
                    keys.ends(visit.scene),
                ],
                args=[visit.id, end_key((visit.object_id, visit.zone))],
            )
        await self._drop_events(store, visits)  # of an exit that came in between
        return []

    async def _drop_events(self, store: str, visits: Sequence[Visit]) -> None:
        if events := await self._events(store, visits):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xdel(Keys(store).events, *events)
                pipe.xadd(Keys(store).events, {REWRITTEN: b"1"})
                await pipe.execute()

    async def _visits(self, store: str, subject: erasure_pb2.TraceSubject) -> tuple[list[Visit], int]:
        """The person's, and how many there are that may be theirs."""
        spans = [_span(span) for span in subject.tracks]
        if not spans:
            return [], 0
        known: dict[str, Visit] = {}
        async for raw, record in self._redis.hscan_iter(Keys(store).visits, count=_PAGE):
            visit = decode(raw.decode(), record)
            known[visit.id] = visit
        sure = [one for one in known.values() if any(span.track in one.tracks and _meet(one, span) for span in spans)]
        people = {(one.scene, one.object_id) for one in sure}
        theirs = [
            one
            for one in known.values()
            if (one.scene, one.object_id) in people and any(_meet(one, span, _SAME_PERSON_MS) for span in spans)
        ]
        ids = {one.id for one in theirs}
        unknown = [
            one
            for one in known.values()
            if one.id not in ids
            and any(span.camera in one.cameras and _meet(one, span) for span in spans)
            and not _is_somebody_else(one, spans)
        ]
        return theirs, len(unknown)

    async def _events(self, store: str, visits: Sequence[Visit]) -> list[bytes]:
        ids, events = {visit.id for visit in visits}, list[bytes]()
        after = "-"
        while ids:
            page: Any = await self._redis.xrange(Keys(store).events, min=after, count=_PAGE)
            events += [raw for raw, fields in page if REWRITTEN not in fields and event_of(fields)[1].id in ids]
            if len(page) < _PAGE:
                break
            after = f"({page[-1][0].decode('ascii')}"
        return events


def _span(span: erasure_pb2.TrackSpan) -> _Span:
    camera = names.parse_camera(span.camera, "subject.tracks.camera")[1]
    track = f"cam:{camera}:{span.object_id}"
    return _Span(camera, track, span.start_time.ToMilliseconds(), span.end_time.ToMilliseconds())


def _meet(visit: Visit, span: _Span, margin_ms: int = 0) -> bool:
    end = visit.seen if visit.exit is None else visit.exit
    return visit.enter <= span.end_ms + margin_ms and end >= span.start_ms - margin_ms


def _is_somebody_else(visit: Visit, spans: Iterable[_Span]) -> bool:
    """Whether a camera that saw the person knows whose visit it is: by another track of its own."""
    return any(track.startswith(f"cam:{span.camera}:") for span in spans for track in visit.tracks)
