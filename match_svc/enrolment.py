"""Enrols persons of interest: from photos, whose faces the embedding service finds, or from embeddings."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import grpc
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, poi_pb2

from match_svc import profiles
from match_svc.registry import Registry, Request
from mesh import names
from mesh.embeddings import decode
from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable, from_rpc

MOST_REFERENCES = 100
"""Of one person. More photos of a face than this teach the gallery nothing, and a record stays under 400 kB."""

_MIN_CONFIDENCE = 0.9
"""The face detector fires on backs of heads at 0.5 to 0.8."""
_ALIGNMENTS = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_MEAN)
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Enrolment:
    """Makes persons and their references. What is answered is in the registry."""

    def __init__(
        self, registry: Registry, embedding: embedding_pb2_grpc.EmbeddingServiceAsyncStub, embed_timeout: float
    ) -> None:
        """`embed_timeout` in seconds is the longest wait for the faces of one photo."""
        self._registry = registry
        self._embedding = embedding
        self._embed_timeout = embed_timeout

    async def create(self, message: poi_pb2.CreatePoiRequest) -> poi_pb2.Poi:
        """Enrol a person. Raises InvalidArgument, FailedPrecondition, AlreadyExists, Unavailable."""
        (store,) = names.parse_store(message.parent)
        request = Request.of(message)
        poi = poi_pb2.Poi()
        profiles.fill(poi, message.poi)
        made = await self._registry.earlier(store, request)
        if made is not None:
            return made
        poi_id = message.poi_id or secrets.token_hex(8)
        poi.name = names.poi(store, poi_id)
        if message.poi_id and await self._registry.exists(store, poi_id):  # before anybody looks at photos
            raise AlreadyExists(poi.name)
        if message.images:
            photos = await self._photos(store, message.images, [f"images[{at}]" for at in range(len(message.images))])
            poi.references.extend(photos)
        else:
            poi.references.extend(
                _given(embedding, f"embeddings[{at}]") for at, embedding in enumerate(message.embeddings)
            )
        poi.create_time.GetCurrentTime()
        poi.update_time.CopyFrom(poi.create_time)
        for reference in poi.references:
            _stamp(reference, store, poi_id)
        return await self._registry.create(store, poi, request)

    async def add_reference(self, message: poi_pb2.AddReferenceRequest) -> poi_pb2.Poi:
        """Add a face to a person. Raises NotFound, and what `create` does."""
        store, poi_id = names.parse_poi(message.poi, "poi")
        request = Request.of(message)
        made = await self._registry.earlier(store, request)
        if made is not None:
            return made
        if not await self._registry.exists(store, poi_id):
            raise NotFound(message.poi)
        if message.WhichOneof("source") == "image":
            (reference,) = await self._photos(store, [message.image], ["image"])
        else:
            reference = _given(message.embedding, "embedding")
        _stamp(reference, store, poi_id)

        def add(poi: poi_pb2.Poi) -> None:
            if len(poi.references) >= MOST_REFERENCES:
                raise FailedPrecondition(
                    f"{poi.name} has {MOST_REFERENCES} references, which is the most", reason="TOO_MANY_REFERENCES"
                )
            poi.references.append(reference)

        return await self._registry.change(store, poi_id, add, request=request)

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

    async def _photos(self, store: str, images: Sequence[bytes], fields: Sequence[str]) -> list[poi_pb2.Reference]:
        """A reference for each photo. Raises the first problem, naming its photo."""
        found = await asyncio.gather(
            *(self._photo(store, image, field) for image, field in zip(images, fields, strict=True)),
            return_exceptions=True,
        )
        references: list[poi_pb2.Reference] = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            references.append(one)
        return references

    async def _photo(self, store: str, image: bytes, field: str) -> poi_pb2.Reference:
        request = embedding_pb2.DetectFacesRequest(
            parent=names.store(store),
            image=image,
            options=embedding_pb2.FaceOptions(min_confidence=_MIN_CONFIDENCE, alignments=_ALIGNMENTS),
            single_face=True,
        )
        try:
            response = await self._embedding.DetectFaces(request, timeout=self._embed_timeout)
        except grpc.aio.AioRpcError as error:
            raise _of_photo(error, field) from error
        (face,) = response.faces
        for embedding in face.embeddings:
            decode(embedding, field=field)
        return poi_pb2.Reference(model=face.embeddings[0].model, quality=face.quality, embeddings=face.embeddings)


def _given(embedding: common_pb2.Embedding, field: str) -> poi_pb2.Reference:
    """A reference of what a caller computed. Raises InvalidArgument, FailedPrecondition."""
    if not embedding.vector:
        raise InvalidArgument(violations=[(field, "is empty")], reason="INVALID_EMBEDDING")
    decode(embedding, field=field)
    return poi_pb2.Reference(model=embedding.model, embeddings=[embedding])


def _stamp(reference: poi_pb2.Reference, store: str, poi_id: str) -> None:
    reference.name = names.reference(store, poi_id, secrets.token_hex(8))
    reference.create_time.GetCurrentTime()


def _of_photo(error: grpc.aio.AioRpcError, field: str) -> Exception:
    """What the embedding service said, in terms of our caller's request."""
    if error.code() in _AWAY:
        return Unavailable("the embedding service cannot be reached", reason="EMBEDDING_UNAVAILABLE", retry_after=1.0)
    told: MeshError = from_rpc(error)
    metadata = {**told.metadata, "field": field}
    if isinstance(told, InvalidArgument):
        return InvalidArgument(violations=[(field, told.message)], reason=told.reason, metadata=metadata)
    if isinstance(told, FailedPrecondition):
        return FailedPrecondition(f"{field}: {told.message}", reason=told.reason, metadata=metadata)
    return error
