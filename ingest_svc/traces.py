"""What ingest keeps of a person, for the eraser: refusals that name their track, and what is in memory for a moment.

Of several replicas the one that is asked forgets at once, the others when the appearance is over.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from poi.v1 import erasure_pb2

from ingest_svc.evidence import Evidence
from ingest_svc.exits import Exits
from ingest_svc.sent import SentMatches
from mesh import names
from mesh.redis import Redis
from mesh.traces import found

_PAGE: Final = 500
_TOLERANCE_MS: Final = 1000
_QUEUED: Final = erasure_pb2.Remainder(
    keeper="broker",
    kind="messages of cameras that nobody has taken yet",
    reason="what was published meanwhile comes as of somebody who is not known",
)


class _Span(NamedTuple):
    camera: str
    object_id: str
    start_ms: int
    end_ms: int


class IngestTraces:
    """`mesh.traces.Keeper` of the ingest service."""

    def __init__(
        self, redis: Redis, store: str, sent: SentMatches, evidence: Evidence | None, exits: Exits | None
    ) -> None:
        self._redis, self._store = redis, store
        self._sent, self._evidence, self._exits = sent, evidence, exits

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See Keeper."""
        if store != self._store:
            return found({})
        subject, spans = request.subject, _spans(request.subject)
        counts = {
            "refusals that name a track": len(await self._refusals(spans)),
            "frames in memory": self._exits.shown(_times(spans)) if self._exits is not None else 0,
            "notes of matches in memory": self._sent.count(subject.poi, set(subject.appearances)),
        }
        return found(counts, remainders=[_QUEUED] if subject.tracks else ())

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """See Keeper."""
        if store != self._store:
            return []
        spans = _spans(subject)
        if entries := await self._refusals(spans):
            await self._redis.xdel(self._key, *entries)
        appearances = set(subject.appearances)
        self._sent.forget(subject.poi, appearances)
        if self._evidence is not None:
            self._evidence.forget(appearances)
        if self._exits is not None:
            self._exits.forget(appearances, _times(spans))
        return []

    @property
    def _key(self) -> str:
        return f"poi:{{{self._store}}}:rejections"

    async def _refusals(self, spans: Collection[_Span]) -> list[bytes]:
        entries: list[bytes] = []
        after = "-"
        while spans:
            page: Any = await self._redis.xrange(self._key, min=after, count=_PAGE)
            entries += [raw for raw, fields in page if _names_track(fields, spans)]
            if len(page) < _PAGE:
                break
            after = f"({page[-1][0].decode('ascii')}"
        return entries


def _spans(subject: erasure_pb2.TraceSubject) -> list[_Span]:
    return [
        _Span(span.camera, span.object_id, span.start_time.ToMilliseconds(), span.end_time.ToMilliseconds())
        for span in subject.tracks
    ]


def _times(spans: Collection[_Span]) -> list[tuple[str, int, int]]:
    """(camera, from, to) in ms, with what clocks may be apart."""
    return [(span.camera, span.start_ms - _TOLERANCE_MS, span.end_ms + _TOLERANCE_MS) for span in spans]


def _names_track(fields: dict[bytes, bytes], spans: Collection[_Span]) -> bool:
    """Whether a refusal is of a detection of the person. It is as old as its message's arrival, so no time is asked."""
    topic, field = fields[b"topic"].decode(), fields[b"field"].decode()
    return any(
        field == f"object {span.object_id}" and topic in (span.camera, names.parse_camera(span.camera)[1])
        for span in spans
    )
