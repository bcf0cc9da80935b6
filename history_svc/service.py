"""HistoryService: translates between the contract and the history."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any

from google.api import httpbody_pb2
from poi.v1 import common_pb2, history_pb2, history_pb2_grpc

from history_svc import translate
from history_svc.index import Scope
from history_svc.intake import Batch, appearance_id, wrong_store
from history_svc.queries import Queries
from history_svc.search import Searches
from history_svc.store import Appending, History
from history_svc.visits import Visits
from mesh import names, pages
from mesh.errors import DataLoss, InvalidArgument, NotFound
from mesh.streams import until_drained

SERVICE = "poi.v1.HistoryService"
_PAGE, _MAX_PAGE = 50, 1000
_FOREVER = 1 << 62
_Pending = tuple[Batch, Appending]


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """See proto/poi/v1/history.proto."""

    def __init__(
        self,
        history: History,
        searches: Searches,
        queries: Queries,
        visits: Visits,
        draining: asyncio.Event,
        *,
        stream_window: int,
        min_similarity: float,
    ) -> None:
        self._history, self._searches, self._queries, self._visits = history, searches, queries, visits
        self._draining = draining
        self._stream_window, self._min_similarity = stream_window, min_similarity

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
        state = pages.decode(request.page_token, request)
        scope = self._scope(
            request.interval, request.cameras, int(state.get("before", self._history.index.next_number))
        )
        probes = await self._queries.probes(request)
        least = request.min_similarity if request.HasField("min_similarity") else self._min_similarity
        hits = await self._searches.find(probes, least, scope)
        after = (-float(state["similarity"]), bytes.fromhex(state["id"])) if state else None
        start = 0 if after is None else bisect_right(hits, after, key=lambda hit: hit.rank)
        page = hits[start : start + size]
        response = history_pb2.SearchAppearancesResponse(total_size=len(hits))
        for hit in page:
            response.hits.add(
                appearance=translate.appearance(self._history.store, hit.appearance, hit.best),
                similarity=hit.similarity,
            )
        if start + size < len(hits):
            last = page[-1]
            response.next_page_token = pages.encode(
                {"before": scope.before, "similarity": last.similarity, "id": last.appearance.id.hex()}, request
            )
        await self._visits.attach([hit.appearance for hit in response.hits])
        return response

    async def ListAppearances(
        self, request: history_pb2.ListAppearancesRequest, context: Any
    ) -> history_pb2.ListAppearancesResponse:
        self._check_store(request.parent)
        size = pages.clamp(request.page_size, _PAGE, _MAX_PAGE)
        state = pages.decode(request.page_token, request)
        scope = self._scope(request.interval, request.cameras, _FOREVER)
        after = (int(state["start_ns"]), bytes.fromhex(state["id"])) if state else None
        floor = max(scope.start_ns, self._history.oldest_ns())
        found = self._history.book.newest_first(floor, scope.end_ns, after)
        if scope.cameras is not None:
            wanted = set(scope.cameras)
            found = (one for one in found if one.camera in wanted)
        page = list(islice(found, size + 1))
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
        found = self._history.book.get(appearance_id(text, request.name)) if store == self._history.store else None
        if found is None or found.end_ns < self._history.oldest_ns():
            raise NotFound(request.name)
        response = translate.appearance(store, found)
        await self._visits.attach([response])
        return response

    async def GetFrame(
        self, request: history_pb2.GetFrameRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        store, frame_id = names.parse_frame(request.name)
        frame = self._history.book.frame(frame_id) if store == self._history.store else None
        if frame is None or frame.time_ns < self._history.oldest_ns():
            raise NotFound(request.name)
        parts = self._history.frames.parts(frame_id)
        content_type = "image/jpeg"
        try:
            while part := await asyncio.to_thread(next, parts, b""):
                yield httpbody_pb2.HttpBody(content_type=content_type, data=part)
                content_type = ""
        except FileNotFoundError:
            raise DataLoss(f"the image of {request.name} is gone", reason="FRAME_LOST") from None
        finally:
            parts.close()

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

    def _check_store(self, parent: str) -> None:
        (store,) = names.parse_store(parent)
        if store != self._history.store:
            raise wrong_store("parent", self._history.store)

    def _scope(self, interval: common_pb2.Interval, cameras: Iterable[str], before: int) -> Scope:
        start, end = -_FOREVER, _FOREVER
        if interval.HasField("start_time"):
            start = max(start, translate.nanoseconds(interval.start_time))
        if interval.HasField("end_time"):
            end = min(end, translate.nanoseconds(interval.end_time))
        if start > end:
            raise InvalidArgument(violations=[("interval", "ends before it starts")])
        ids: list[str] = []
        for at, name in enumerate(cameras):
            store, camera = names.parse_camera(name, f"cameras[{at}]")
            if store != self._history.store:
                raise wrong_store(f"cameras[{at}]", self._history.store)
            ids.append(camera)
        return Scope(start, end, ids or None, before)
