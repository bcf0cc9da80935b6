"""gRPC on one side, the registry and the gallery on the other; nothing else happens here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from poi.v1 import match_pb2, match_pb2_grpc, poi_pb2, poi_pb2_grpc

from match_svc import profiles
from match_svc.enrolment import Enrolment
from match_svc.follower import Follower
from match_svc.importing import Importer
from match_svc.matching import Batch, Matcher
from match_svc.people import Match
from match_svc.pipeline import in_order
from match_svc.policy import RulesOf, effective
from match_svc.registry import Registry
from match_svc.removals import Removals
from match_svc.replicas import Replicas
from match_svc.watchlists import Watchlists, limit_stay
from mesh import names, pages
from mesh.errors import InvalidArgument, to_status
from mesh.streams import until_drained

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only

MOST_DETECTIONS = 256
_PAGE, _MOST_PAGE = 50, 1000
_PAGE_BYTES = 2 << 20
"""A page ends early here: persons with many references must not make it too large to send."""
_SETTINGS_SUFFIX, _STATUS_SUFFIX = "/matchSettings", "/galleryStatus"
_TUNABLE = ("threshold", "target_false_match_rate")
_STAY = frozenset(("expire_time", "watchlists"))
"""What may leave a person without an end."""
_KINDS = {"exact": match_pb2.INDEX_KIND_EXACT, "quantised": match_pb2.INDEX_KIND_QUANTISED}


class PoiServicer(poi_pb2_grpc.PoiServiceServicer):
    """poi.v1.PoiService."""

    def __init__(
        self,
        registry: Registry,
        enrolment: Enrolment,
        importer: Importer,
        removals: Removals,
        watchlists: Watchlists,
        draining: asyncio.Event,
    ) -> None:
        self._registry = registry
        self._watchlists = watchlists
        self._enrolment = enrolment
        self._importer = importer
        self._removals = removals
        self._draining = draining

    async def CreatePoi(self, request: poi_pb2.CreatePoiRequest, context: Context) -> poi_pb2.Poi:
        """Enrol."""
        return profiles.basic(await self._enrolment.create(request))

    async def ImportPois(
        self, request_iterator: AsyncIterator[poi_pb2.ImportPoisRequest], context: Context
    ) -> AsyncIterator[poi_pb2.ImportPoisResponse]:
        """Enrol many."""
        rows = until_drained(request_iterator, self._draining)
        async with aclosing(in_order(rows, self._importer.row)) as responses:
            async for response in responses:
                yield response

    async def GetPoi(self, request: poi_pb2.GetPoiRequest, context: Context) -> poi_pb2.Poi:
        """Read."""
        poi = await self._registry.get(*names.parse_poi(request.name))
        return poi if request.view == poi_pb2.POI_VIEW_FULL else profiles.basic(poi)

    async def ListPois(self, request: poi_pb2.ListPoisRequest, context: Context) -> poi_pb2.ListPoisResponse:
        """Read many, newest first."""
        (store,) = names.parse_store(request.parent)
        count = pages.clamp(request.page_size, _PAGE, _MOST_PAGE)
        before = pages.decode(request.page_token, request, before=pages.whole).get("before")
        page = await self._registry.page(store, before, count)
        response = poi_pb2.ListPoisResponse(total_size=page.total)
        rest, size = page.rest, 0
        for place, poi in page.pois:
            response.pois.append(profiles.basic(poi))
            size += poi.ByteSize()
            if size > _PAGE_BYTES and place != page.pois[-1][0]:
                rest = place
                break
        if rest is not None:
            response.next_page_token = pages.encode({"before": rest}, request)
        return response

    async def UpdatePoi(self, request: poi_pb2.UpdatePoiRequest, context: Context) -> poi_pb2.Poi:
        """Change the profile."""
        store, poi_id = names.parse_poi(request.poi.name, "poi.name")
        fields = profiles.paths(request.update_mask, request.poi)
        lists = await self._watchlists.all(store) if _STAY.intersection(fields) else []

        def edit(poi: poi_pb2.Poi) -> None:
            profiles.change(poi, request.poi, fields)
            limit_stay(poi, lists)

        changed = await self._registry.change(store, poi_id, edit, etag=request.poi.etag)
        await self._removals.after_update(changed, fields, context)
        return profiles.basic(changed)

    async def DeletePoi(self, request: poi_pb2.DeletePoiRequest, context: Context) -> Empty:
        """Remove."""
        revision = await self._registry.delete(*names.parse_poi(request.name), etag=request.etag)
        await self._removals.effective(revision, context)
        return Empty()

    async def AddReference(self, request: poi_pb2.AddReferenceRequest, context: Context) -> poi_pb2.Poi:
        """Add a face."""
        return profiles.basic(await self._enrolment.add_reference(request))

    async def DeleteReference(self, request: poi_pb2.DeleteReferenceRequest, context: Context) -> poi_pb2.Poi:
        """Take a face away."""
        changed = await self._enrolment.delete_reference(request.name)
        await self._removals.effective(int(changed.etag), context)
        return profiles.basic(changed)

    async def GetReferenceImage(
        self, request: poi_pb2.GetReferenceImageRequest, context: Context
    ) -> poi_pb2.ReferenceImage:
        """Show a face."""
        return await self._registry.picture(request.name)


class MatchServicer(match_pb2_grpc.MatchServiceServicer):
    """poi.v1.MatchService."""

    def __init__(
        self,
        registry: Registry,
        follower: Follower,
        replicas: Replicas,
        matcher: Matcher,
        rules: RulesOf,
        draining: asyncio.Event,
    ) -> None:
        self._registry = registry
        self._follower = follower
        self._replicas = replicas
        self._matcher = matcher
        self._rules_of = rules
        self._draining = draining

    async def MatchFaces(self, request: match_pb2.MatchFacesRequest, context: Context) -> match_pb2.MatchFacesResponse:
        """Match a few faces."""
        (store,) = names.parse_store(request.parent)
        await self._replicas.wait_ready()
        gallery = partial(self._follower.gallery, store)
        batch = await self._matcher.faces(gallery, request.embeddings, request.max_matches)
        response = match_pb2.MatchFacesResponse()
        for position in range(len(request.embeddings)):
            face = response.faces.add()
            face.matches.extend(_match(match) for match in batch.matches.get(position, ()))
            if position in batch.problems:
                face.error.CopyFrom(to_status(batch.problems[position]))
        return response

    async def MatchDetections(
        self, request_iterator: AsyncIterator[match_pb2.MatchDetectionsRequest], context: Context
    ) -> AsyncIterator[match_pb2.MatchDetectionsResponse]:
        """Match batches."""
        await self._replicas.wait_ready()
        requests = until_drained(request_iterator, self._draining)
        async with aclosing(in_order(requests, self._match)) as responses:
            async for response in responses:
                yield response

    async def GetGalleryStatus(
        self, request: match_pb2.GetGalleryStatusRequest, context: Context
    ) -> match_pb2.GalleryStatus:
        """Say what this replica has, and what all others have."""
        store = _singleton_store(request.name, _STATUS_SUFFIX, "name")
        gallery = self._follower.gallery(store)
        status = match_pb2.GalleryStatus(
            name=request.name,
            replica=self._replicas.id,
            revision=max(0, self._follower.revision),
            poi_count=gallery.size,
            reference_count=gallery.references,
            pending_reference_count=gallery.pending,
            index_kind=_KINDS[gallery.kind],
            lag_ms=round(self._replicas.lag_seconds * 1000),
            serving=self._replicas.serving,
        )
        for replica in await self._replicas.all():
            status.replicas.add(
                replica=replica.id,
                revision=replica.revision,
                lag_ms=round(replica.lag_seconds * 1000),
                heartbeat_age_ms=round(replica.age_seconds * 1000),
            )
        return status

    async def GetMatchSettings(
        self, request: match_pb2.GetMatchSettingsRequest, context: Context
    ) -> match_pb2.MatchSettings:
        """Read the store's settings, defaults filled in."""
        store = _singleton_store(request.name, _SETTINGS_SUFFIX, "name")
        return await self._settings(store, await self._registry.settings(store))

    async def UpdateMatchSettings(
        self, request: match_pb2.UpdateMatchSettingsRequest, context: Context
    ) -> match_pb2.MatchSettings:
        """Change the store's settings."""
        wanted, mask = request.match_settings, request.update_mask
        store = _singleton_store(wanted.name, _SETTINGS_SUFFIX, "match_settings.name")
        if wrong := [path for path in mask.paths if path not in (*_TUNABLE, "*")]:
            allowed = " and ".join(_TUNABLE)
            raise InvalidArgument(
                violations=[("update_mask", f"{path[:100]!r} cannot be changed; {allowed} can") for path in wrong],
                reason="INVALID_UPDATE_MASK",
            )
        given = [field.name for field, _ in wanted.ListFields() if field.name in _TUNABLE]
        fields = (_TUNABLE if "*" in mask.paths else mask.paths) if mask.paths else given

        def edit(settings: match_pb2.MatchSettings) -> None:
            for name in fields:
                cast(Message, settings).ClearField(name)
                if name in given:
                    setattr(settings, name, getattr(wanted, name))

        kept = await self._registry.configure(store, edit) if fields else await self._registry.settings(store)
        return await self._settings(store, kept)

    async def _match(self, request: match_pb2.MatchDetectionsRequest) -> match_pb2.MatchDetectionsResponse:
        (store,) = names.parse_store(request.parent)
        detections = request.detections
        if len(detections) > MOST_DETECTIONS:
            raise InvalidArgument(violations=[("detections", f"has more than {MOST_DETECTIONS} items")])
        batch = await self._matcher.detections(partial(self._follower.gallery, store), detections)
        response = match_pb2.MatchDetectionsResponse(batch_id=request.batch_id)
        for position, matches in batch.matches.items():
            response.results.add(
                detection_id=detections[position].detection_id, matches=[_match(match) for match in matches]
            )
        _add_errors(response, batch, request)
        return response

    async def _settings(self, store: str, kept: match_pb2.MatchSettings) -> match_pb2.MatchSettings:
        """As they are in effect, with the number of persons there are now."""
        persons = max(0, await self._registry.count(store) - self._follower.gallery(store).expired.persons)
        rules = self._rules_of(kept, ())
        answer = match_pb2.MatchSettings(name=f"{names.store(store)}{_SETTINGS_SUFFIX}", threshold=rules.cosine)
        if kept.HasField("target_false_match_rate"):
            answer.target_false_match_rate = kept.target_false_match_rate
        answer.effective.CopyFrom(effective(rules.policy(persons, {}).store, persons))
        return answer


def _add_errors(
    response: match_pb2.MatchDetectionsResponse, batch: Batch, request: match_pb2.MatchDetectionsRequest
) -> None:
    for position, problem in sorted(batch.problems.items()):
        item_id = request.detections[position].detection_id
        response.errors.add(index=position, item_id=item_id[:128], status=to_status(problem))


def _match(match: Match) -> match_pb2.Match:
    person = match.person
    return match_pb2.Match(
        poi=person.name,
        display_name=person.display_name,
        severity=match.severity,
        similarity=match.similarity,
        threshold=match.threshold,
        reference=match.reference,
        false_match_rate=match.false_match_rate,
        similarity_false_match_rate=match.similarity_false_match_rate,
        watchlists=match.watchlists,
        pooled_faces=match.pooled_faces,
        face_similarity=match.similarity if match.face_similarity is None else match.face_similarity,
        by_template=match.by_template,
    )


def _singleton_store(name: str, suffix: str, field: str) -> str:
    store = name.removesuffix(suffix)
    try:
        if store != name:
            return names.parse_store(store, field)[0]
    except InvalidArgument:
        pass
    raise InvalidArgument(violations=[(field, f"must look like stores/{{store}}{suffix}")], reason="INVALID_NAME")
