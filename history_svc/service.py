"""HistoryService: translates between the contract and the history."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from google.api import httpbody_pb2
from poi.v1 import common_pb2, history_pb2, history_pb2_grpc

from history_svc import journey, translate
from history_svc.history import Appending, HistoryStore
from history_svc.index import Scope
from history_svc.intake import Batch, appearance_id, wrong_store
from history_svc.queries import Queries
from history_svc.search import Hit, Searches, by_similarity, by_time
from history_svc.summary import summary
from history_svc.visits import Found, Visits
from mesh import names, pages
from mesh.errors import InvalidArgument, NotFound
from mesh.streams import until_drained

SERVICE = "poi.v1.HistoryService"
STORAGE = "poi.v1.HistoryService/storage"
"""In health: not serving while something damaged is in quarantine."""
_PAGE, _MAX_PAGE = 50, 1000
_FOREVER = 1 << 62
_Pending = tuple[Batch, Appending]


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """See proto/poi/v1/history.proto."""

    def __init__(
        self,
        history: HistoryStore,
        searches: Searches,
        queries: Queries,
        visits: Visits,
        draining: asyncio.Event,
        *,
        stream_window: int,
        min_similarity: float,
        gap_ns: int,
    ) -> None:
        """`min_similarity` of queries that say none; `gap_ns` in a journey, between stays that are one."""
        self._history, self._searches, self._queries, self._visits = history, searches, queries, visits
        self._draining = draining
        self._stream_window, self._min_similarity, self._gap_ns = stream_window, min_similarity, gap_ns

    async def AppendDetections(
        self, request_iterator: AsyncIterator[history_pb2.AppendDetectionsRequest], context: Any
    ) -> AsyncIterator[history_pb2.AppendDetectionsResponse]:
        # Batches are read on while earlier ones wait for the disk, so that one fdatasync serves many.
        answers: asyncio.Queue[_Pending | Exception | None] = asyncio.Queue(self._stream_window)
        reader = asyncio.create_task(self._read_batches(request_iterator, answers))
        try:
            while (item := await answers.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield await translate.answer(self._history.store, *item)
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def SearchAppearances(
        self, request: history_pb2.SearchAppearancesRequest, context: Any
    ) -> history_pb2.SearchAppearancesResponse:
        self._check_store(request.parent)
        size = pages.clamp(request.page_size, _PAGE, _MAX_PAGE)
        state = pages.decode(request.page_token, request, before=pages.whole, at=pages.number, id=bytes.fromhex)
        scope = self._scope(request.interval, request.cameras, state.get("before", self._history.index.next_number))
        probes = await self._queries.probes(request)
        hits = await self._searches.find(probes, self._least(request), scope)
        place = by_time if request.order == history_pb2.APPEARANCE_ORDER_TIME else by_similarity
        if place is by_time:
            hits.sort(key=place)
        start = bisect_right(hits, (state["at"], state["id"]), key=place) if state else 0
        page = hits[start : start + size]
        response = history_pb2.SearchAppearancesResponse(total_size=len(hits))
        for hit in page:
            response.hits.add(
                appearance=translate.appearance(self._history.store, hit.appearance, hit.best),
                similarity=hit.similarity,
            )
        if start + size < len(hits):
            at, last = place(page[-1])
            response.next_page_token = pages.encode({"before": scope.before, "at": at, "id": last.hex()}, request)
        # The summary is of all hits, so the first page's call is about all their visits.
        found = await self._visits_of(page if state else hits)
        found.attach(hit.appearance for hit in response.hits)
        if hits and not state:
            response.summary.CopyFrom(summary(self._history.store, hits, found))
        return response

    async def GetJourney(self, request: history_pb2.GetJourneyRequest, context: Any) -> history_pb2.GetJourneyResponse:
        self._check_store(request.parent)
        scope = self._scope(request.interval, (), self._history.index.next_number)
        probes = await self._queries.probes(request.query, "query.")
        hits = await self._searches.find(probes, self._least(request), scope)
        best = hits[: journey.MAX_APPEARANCES]
        found = await self._visits_of(best)
        return history_pb2.GetJourneyResponse(
            steps=journey.steps(self._history.store, best, found, self._gap_ns),
            total_size=len(hits),
            visits_partial=found.partial,
        )

    async def ListAppearances(
        self, request: history_pb2.ListAppearancesRequest, context: Any
    ) -> history_pb2.ListAppearancesResponse:
        self._check_store(request.parent)
        size = pages.clamp(request.page_size, _PAGE, _MAX_PAGE)
        state = pages.decode(request.page_token, request, start_ns=pages.whole, id=bytes.fromhex)
        scope = self._scope(request.interval, request.cameras, _FOREVER)
        after = (state["start_ns"], state["id"]) if state else None
        floor = max(scope.start_ns, self._history.oldest_ns())
        page = await self._history.reads.newest_first(floor, scope.end_ns, after, size + 1, scope.cameras)
        response = history_pb2.ListAppearancesResponse(
            appearances=[translate.appearance(self._history.store, one) for one in page[:size]]
        )
        if len(page) > size:
            last = page[size - 1]
            response.next_page_token = pages.encode({"start_ns": last.start_ns, "id": last.id.hex()}, request)
        await self._visits.attach(response.appearances)
        return response

    async def GetAppearance(self, request: history_pb2.GetAppearanceRequest, context: Any) -> history_pb2.Appearance:
        store, text = names.parse_appearance(request.name)
        if store != self._history.store:
            raise NotFound(request.name)
        found = await self._history.reads.appearance(appearance_id(text, request.name))
        if found is None or found.end_ns < self._history.oldest_ns():
            raise NotFound(request.name)
        response = translate.appearance(store, found)
        if request.view != history_pb2.APPEARANCE_VIEW_BASIC:
            await self._visits.attach([response])
        return response

    async def EraseAppearances(
        self, request: history_pb2.EraseAppearancesRequest, context: Any
    ) -> history_pb2.EraseAppearancesResponse:
        self._check_store(request.parent)
        if not request.validate_only and not request.request_id:
            raise InvalidArgument(violations=[("request_id", "is needed, so that a repeat is known as one")])
        hits: list[Hit] = []
        if request.HasField("selection"):
            selection = request.selection
            scope = self._scope(selection.interval, selection.cameras, self._history.index.next_number, "selection.")
            probes = await self._queries.probes(selection.query, "selection.query.")
            hits = await self._searches.find(probes, self._least(selection), scope)
            ids = [hit.appearance.id for hit in hits]
        else:
            ids = [self._appearance_id(at, name) for at, name in enumerate(request.appearances.names)]
        response = history_pb2.EraseAppearancesResponse()
        if request.validate_only:
            response.erasure.CopyFrom(translate.erasure(self._history.store, await self._history.erasing.plan(ids)))
            for hit in hits[:_MAX_PAGE]:
                found = translate.appearance(self._history.store, hit.appearance, hit.best)
                response.hits.add(appearance=found, similarity=hit.similarity)
            return response
        receipt = await self._history.erasing.erase(ids, request.request_id, content=_digest(request))
        response.erasure.CopyFrom(translate.erasure(self._history.store, receipt))
        return response

    async def GetErasure(self, request: history_pb2.GetErasureRequest, context: Any) -> history_pb2.Erasure:
        store, erasure_id = names.parse_erasure(request.name)
        receipt = await self._history.erasing.receipt(erasure_id) if store == self._history.store else None
        if receipt is None:
            raise NotFound(request.name)
        return translate.erasure(store, receipt)

    async def GetFrame(
        self, request: history_pb2.GetFrameRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        store, frame_id = names.parse_frame(request.name)
        if store != self._history.store:
            raise NotFound(request.name)
        found = await self._history.reads.frame(frame_id)
        if found is None or found.frame.time_ns < self._history.oldest_ns():
            raise NotFound(request.name)
        content_type = "image/jpeg"
        async for part in self._history.frames.parts(found.frame):
            yield httpbody_pb2.HttpBody(content_type=content_type, data=part)
            content_type = ""

    async def _read_batches(
        self,
        requests: AsyncIterator[history_pb2.AppendDetectionsRequest],
        answers: asyncio.Queue[_Pending | Exception | None],
    ) -> None:
        try:
            async for request in until_drained(requests, self._draining):
                batch = self._history.read(request)
                appending = self._history.append(batch)
                await answers.put((batch, appending))
        except Exception as error:
            await answers.put(error)
        else:
            await answers.put(None)

    async def _visits_of(self, hits: Sequence[Hit]) -> Found:
        """The visits on the cameras of these hits, from the first sight to the last, with one batched call."""
        if not hits:
            return Found()
        appearances = [hit.appearance for hit in hits]
        cameras = {names.camera(self._history.store, camera) for camera in {one.camera for one in appearances}}
        start_ns, end_ns = min(one.start_ns for one in appearances), max(one.end_ns for one in appearances)
        return await self._visits.find(cameras, start_ns, end_ns)

    def _check_store(self, parent: str) -> None:
        (store,) = names.parse_store(parent)
        if store != self._history.store:
            raise wrong_store("parent", self._history.store)

    def _least(
        self,
        request: history_pb2.SearchAppearancesRequest | history_pb2.GetJourneyRequest | history_pb2.AppearanceSelection,
    ) -> float:
        return request.min_similarity if request.HasField("min_similarity") else self._min_similarity

    def _appearance_id(self, at: int, name: str) -> bytes:
        store, text = names.parse_appearance(name, f"appearances.names[{at}]")
        if store != self._history.store:
            raise wrong_store(f"appearances.names[{at}]", self._history.store)
        return appearance_id(text, name)

    def _scope(self, interval: common_pb2.Interval, cameras: Iterable[str], before: int, path: str = "") -> Scope:
        start, end = -_FOREVER, _FOREVER
        if interval.HasField("start_time"):
            start = max(start, translate.nanoseconds(interval.start_time))
        if interval.HasField("end_time"):
            end = min(end, translate.nanoseconds(interval.end_time))
        if start > end:
            raise InvalidArgument(violations=[(f"{path}interval", "ends before it starts")])
        ids: list[str] = []
        for at, name in enumerate(cameras):
            store, camera = names.parse_camera(name, f"{path}cameras[{at}]")
            if store != self._history.store:
                raise wrong_store(f"{path}cameras[{at}]", self._history.store)
            ids.append(camera)
        return Scope(start, end, ids or None, before)


def _digest(request: history_pb2.EraseAppearancesRequest) -> str:
    """Tells an erasure from another one with the same request id, and is of no use for anything else."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
