"""Enrols persons of interest: from photos, whose faces the embedding service finds, or from embeddings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NoReturn

from poi.v1 import common_pb2, poi_pb2

from match_svc import profiles
from match_svc.checks import Allowed, Checks, refusal
from match_svc.photos import Face, Photos
from match_svc.profiles import Retention
from match_svc.registry import Registry, Request
from mesh import names
from mesh.embeddings import decode
from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

MOST_REFERENCES = 100
"""Of one person. More photos of a face than this teach the gallery nothing, and a record stays under 400 kB."""


class Enrolment:
    """Makes persons and their references. What is answered is in the registry, unless only validation was wanted."""

    def __init__(self, registry: Registry, photos: Photos, checks: Checks, retention: Retention) -> None:
        self._registry = registry
        self._photos = photos
        self._checks = checks
        self._retention = retention

    async def create(self, message: poi_pb2.CreatePoiRequest) -> poi_pb2.Poi:
        """Enrol a person. Raises InvalidArgument, FailedPrecondition, NotFound, AlreadyExists, Unavailable."""
        (store,) = names.parse_store(message.parent)
        request = Request() if message.validate_only else Request.of(message)
        made = await self._registry.earlier(store, request)
        if made is not None:
            return made
        poi = poi_pb2.Poi()
        profiles.fill(poi, message.poi, await self._retention(store, message.poi.watchlists))
        poi_id = message.poi_id or secrets.token_hex(8)
        poi.name = names.poi(store, poi_id)
        if message.poi_id and await self._registry.exists(store, poi_id):  # before anybody looks at photos
            raise AlreadyExists(poi.name)
        fields = [f"images[{at}]" for at in range(len(message.images))]
        if fields:
            faces = await self._photos.look(store, message.images, fields)
        else:
            fields = [f"embeddings[{at}]" for at in range(len(message.embeddings))]
            faces = [_given(embedding, at, fields[at]) for at, embedding in enumerate(message.embeddings)]
        allowed = Allowed(message.allow_duplicate, message.allow_disagreement)
        report = await self._checks.report(store, faces, allowed, name=poi.name)
        for face in faces:
            if face.reference is not None:
                poi.references.append(_stamped(face.reference, store, poi_id))
        if not message.validate_only:
            if not report.accepted:
                # A repeat that overtook the first attempt finds its own person to be the duplicate.
                made = await self._registry.earlier(store, request)
                if made is not None:
                    return made
                _refuse(faces, report, fields, allowed)
            poi = await self._registry.create(store, poi, request, _pictures(poi.references, faces))
        poi.enrolment_report.CopyFrom(report)
        return poi

    async def add_reference(self, message: poi_pb2.AddReferenceRequest) -> poi_pb2.Poi:
        """Add a face to a person. Raises NotFound, and what `create` does."""
        store, poi_id = names.parse_poi(message.poi, "poi")
        request = Request() if message.validate_only else Request.of(message)
        made = await self._registry.earlier(store, request)
        if made is not None:
            return made
        person = await self._registry.get(store, poi_id)
        field = message.WhichOneof("source") or ""
        if field == "image":
            faces = await self._photos.look(store, [message.image], [field])
        else:
            faces = [_given(message.embedding, 0, field)]
        allowed = Allowed(message.allow_duplicate, message.allow_disagreement)
        report = await self._checks.report(store, faces, allowed, name=message.poi, enrolled=person.references)
        found = [_stamped(face.reference, store, poi_id) for face in faces if face.reference is not None]

        def add(poi: poi_pb2.Poi) -> None:
            if len(poi.references) + len(found) > MOST_REFERENCES:
                raise FailedPrecondition(
                    f"{poi.name} has {MOST_REFERENCES} references, which is the most", reason="TOO_MANY_REFERENCES"
                )
            poi.references.extend(found)

        if message.validate_only:
            add(person)
        else:
            if not report.accepted:
                made = await self._registry.earlier(store, request)
                if made is not None:
                    return made
                _refuse(faces, report, [field], allowed)
            pictures = _pictures(found, faces)
            person = await self._registry.change(store, poi_id, add, request=request, pictures=pictures)
        person.enrolment_report.CopyFrom(report)
        return person

    async def delete_reference(self, name: str) -> poi_pb2.Poi:
        """Take a face from a person. Raises NotFound, and FailedPrecondition for the last one."""
        store, poi_id, _ = names.parse_reference(name)

        def remove(poi: poi_pb2.Poi) -> None:
            kept = [reference for reference in poi.references if reference.name != name]
            if len(kept) == len(poi.references):
                raise NotFound(name)
            if not kept:
                raise FailedPrecondition(
                    f"{name} is the last reference: delete the person instead", reason="LAST_REFERENCE"
                )
            del poi.references[:]
            poi.references.extend(kept)

        return await self._registry.change(store, poi_id, remove)


def _given(embedding: common_pb2.Embedding, index: int, field: str) -> Face:
    """A face of what a caller computed. Raises InvalidArgument, FailedPrecondition."""
    if not embedding.vector:
        raise InvalidArgument(violations=[(field, "is empty")], reason="INVALID_EMBEDDING")
    decode(embedding, field=field)
    if embedding.alignment not in common_pb2.Alignment.values():
        raise InvalidArgument(violations=[(f"{field}.alignment", "is none that is known")], reason="INVALID_EMBEDDING")
    return Face(poi_pb2.FaceReport(index=index), poi_pb2.Reference(model=embedding.model, embeddings=[embedding]))


def _stamped(reference: poi_pb2.Reference, store: str, poi_id: str) -> poi_pb2.Reference:
    reference.name = names.reference(store, poi_id, secrets.token_hex(8))
    reference.create_time.GetCurrentTime()
    return reference


def _refuse(
    faces: Sequence[Face], report: poi_pb2.EnrolmentReport, fields: Sequence[str], allowed: Allowed
) -> NoReturn:
    for face in faces:
        if face.refusal is not None:
            raise face.refusal
    raise refusal(report, fields, allowed)


def _pictures(references: Sequence[poi_pb2.Reference], faces: Sequence[Face]) -> dict[str, bytes]:
    """By reference, what is kept to show it; the faces are all accepted."""
    return {
        reference.name: face.image.SerializeToString()
        for reference, face in zip(references, faces, strict=True)
        if face.image is not None
    }
