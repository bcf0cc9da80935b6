"""What the history keeps of a person, for the eraser: appearances, and every frame that shows them.

A frame shows everybody who was in front of its camera then, whoever it was kept for. So all frames of a camera that
were taken while the person was there go, those of others included, and the pictures that were made of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import erasure_pb2, history_pb2

from history_svc.appearances import Appearance
from history_svc.history import HistoryStore
from history_svc.index import Scope
from history_svc.intake import appearance_id
from history_svc.queries import Queries
from history_svc.search import Searches
from mesh import names
from mesh.errors import NotFound, from_rpc
from mesh.traces import found

_TOLERANCE_NS: Final = 1_000_000_000
"""Of a frame's time against a sight's: cameras answer with the frame they have next."""
_PAGE: Final = 1000
_FOREVER: Final = 1 << 62


class HistoryTraces:
    """`mesh.traces.Keeper` of the history service."""

    def __init__(self, history: HistoryStore, searches: Searches, queries: Queries, min_similarity: float) -> None:
        """`min_similarity` of requests that say none."""
        self._history, self._searches, self._queries = history, searches, queries
        self._min_similarity = min_similarity

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See Keeper. Raises what a search does, of its photos."""
        if store != self._history.store:
            return found({})
        subject = request.subject
        ids = _ids(store, subject.appearances)
        ids |= await self._alike(request)
        appearances = await self._history.reads.appearances(ids)
        plan = await self._history.erasing.plan(list(appearances))
        frames = await self._frames(appearances.values(), subject.frames)
        known = erasure_pb2.TraceSubject(
            appearances=[names.appearance(store, one.hex()) for one in appearances],
            frames=[names.frame(store, one) for one in frames],
            tracks=[_span(store, one) for one in appearances.values()],
        )
        counts = {
            "appearances": plan.appearances,
            "detections": plan.detections,
            "faces": plan.faces,
            "frames and pictures": len(frames),
        }
        remainders = [
            erasure_pb2.Remainder(
                kind="ids of erased detections",
                count=plan.detections,
                reason="keep detections that are sent again from coming back; gone with the retention time",
            )
        ]
        return found(
            counts, names_of=known.appearances, remainders=remainders if plan.detections else (), subject=known
        )

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """See Keeper."""
        if store != self._history.store:
            return []
        erasing, prefix = self._history.erasing, f"person:{erasure.rpartition('/')[2]}:"
        for request_id in await erasing.unfinished(prefix):  # cut off by a crash: it is hidden, and in files yet
            await erasing.erase((), request_id)
        ids = _ids(store, subject.appearances)
        there = await self._history.reads.appearances(ids)
        frames = await self._frames(there.values(), subject.frames)
        if there or frames:
            # Not made of what it is about: a frame that came once more is to be erased once more.
            await erasing.erase(sorted(there), prefix + uuid.uuid4().hex[:16], frames)
        return []

    async def _alike(self, request: erasure_pb2.FindTracesRequest) -> set[bytes]:
        """Appearances with a face like the photos', or like the references of the person of interest."""
        queries: list[tuple[str, history_pb2.AppearanceQuery]] = []
        if request.photos:
            photos = history_pb2.Photos(images=request.photos)
            queries.append(("person.", history_pb2.AppearanceQuery(photos=photos)))
        if request.by_references:
            queries.append(("person.", history_pb2.AppearanceQuery(poi=request.subject.poi)))
        least = request.min_similarity if request.HasField("min_similarity") else self._min_similarity
        ids: set[bytes] = set()
        for path, query in queries:
            try:
                probes = await self._queries.probes(query, path)
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from None
            scope = Scope(-_FOREVER, _FOREVER, None, self._history.index.next_number)
            ids |= {hit.appearance.id for hit in await self._searches.find(probes, least, scope)}
        return ids

    async def _frames(self, appearances: Iterable[Appearance], known: Iterable[str]) -> set[str]:
        """Ids of the frames that show these, and of those of the `known` ones (by name) that there are."""
        store, reads = self._history.store, self._history.reads
        frames: set[str] = set()
        for one in appearances:
            frames |= {frame.id for frame in one.frames}
            start_ns, end_ns = one.start_ns - _TOLERANCE_NS, one.end_ns + _TOLERANCE_NS
            after: tuple[int, bytes] | None = None
            while True:
                page = await reads.newest_first(start_ns, end_ns + 1, after, _PAGE, [one.camera])
                frames |= {frame.id for other in page for frame in other.frames if start_ns <= frame.time_ns <= end_ns}
                if len(page) < _PAGE:
                    break
                after = (page[-1].start_ns, page[-1].id)
        for _, text in _own(store, known):
            if text not in frames and await reads.frame(text) is not None:
                frames.add(text)
        return frames


def _ids(store: str, appearances: Iterable[str]) -> set[bytes]:
    """Of the store's appearances among these; alerts may be of what is no id of any, which is left out."""
    ids = set()
    for name, text in _own(store, appearances):
        with suppress(NotFound):
            ids.add(appearance_id(text, name))
    return ids


def _own(store: str, resources: Iterable[str]) -> list[tuple[str, str]]:
    """(name, id) of those of this store."""
    parts = [(name, name.split("/")) for name in resources]
    return [(name, part[3]) for name, part in parts if len(part) == 4 and part[1] == store]


def _span(store: str, one: Appearance) -> erasure_pb2.TrackSpan:
    start, end = Timestamp(), Timestamp()
    start.FromNanoseconds(one.start_ns)
    end.FromNanoseconds(one.end_ns)
    return erasure_pb2.TrackSpan(
        camera=names.camera(store, one.camera), object_id=one.object_id, start_time=start, end_time=end
    )
