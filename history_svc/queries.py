"""Who a search is for: photos, an embedding, a person of interest or an appearance become face templates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import grpc
import numpy as np
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, history_pb2, poi_pb2, poi_pb2_grpc

from history_svc.history import HistoryStore
from history_svc.index import Probes, Scope
from history_svc.intake import appearance_id, wrong_store
from history_svc.records import Vectors
from mesh import embeddings, names
from mesh.embeddings import FACE_MODEL, Vector
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, from_rpc

_ALIGNED, _UNALIGNED = common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED
_MEAN, _UNSAID = common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNSPECIFIED
# Which of a face's embeddings is compared with faces that were aligned, and with those that were not: the mean of both
# is the best template for the latter (LFW, 3,000 pairs: TAR .886 at cosine 0.45, .833 with the aligned one).
_FOR_ALIGNED: Final = (_ALIGNED, _MEAN, _UNALIGNED, _UNSAID)
_FOR_UNALIGNED: Final = (_MEAN, _UNALIGNED, _UNSAID, _ALIGNED)
_SURE_FACE: Final = 0.9
"""The detector takes backs of heads for faces at 0.5 to 0.8."""
_BEST_FACES: Final = 3


class Queries:
    """Reads queries; asks EmbeddingService for photos and PoiService for persons of interest."""

    def __init__(self, history: HistoryStore, embed: grpc.aio.Channel, match: grpc.aio.Channel) -> None:
        self._history = history
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(embed)
        self._pois = poi_pb2_grpc.PoiServiceStub(match)

    async def probes(
        self, query: history_pb2.SearchAppearancesRequest | history_pb2.AppearanceQuery, path: str = ""
    ) -> Probes:
        """The templates of whoever is looked for; raises MeshError as the contract says.

        `path` leads to `query` in the caller's request, for what is said about a field of it.
        """
        match query.WhichOneof("query"):
            case "image":
                return await self._of_photos({f"{path}image": query.image})
            case "photos":
                images = query.photos.images
                return await self._of_photos({f"{path}photos.images[{at}]": one for at, one in enumerate(images)})
            case "poi":
                return await self._of_poi(query.poi, f"{path}poi")
            case "appearance":
                return await self._of_appearance(query.appearance, f"{path}appearance")
            case _:
                vector = embeddings.decode(query.embedding, field=f"{path}embedding")[None]
                return Probes(vector, vector)

    async def _of_photos(self, images: Mapping[str, bytes]) -> Probes:
        """By field of the request. Raises the first problem, naming its photo."""
        found = await asyncio.gather(*map(self._face, images.values()), return_exceptions=True)
        faces: list[Sequence[common_pb2.Embedding]] = []
        for field, one in zip(images, found, strict=True):
            if isinstance(one, grpc.aio.AioRpcError):
                raise _of_photo(one, field) from one
            if isinstance(one, BaseException):
                raise one
            faces.append(one)
        return _probes(faces)

    async def _face(self, image: bytes) -> Sequence[common_pb2.Embedding]:
        """The embeddings of the one face on a photo."""
        response = await self._embed.DetectFaces(
            embedding_pb2.DetectFacesRequest(
                parent=names.store(self._history.store),
                image=image,
                options=embedding_pb2.FaceOptions(min_confidence=_SURE_FACE, alignments=[_ALIGNED, _UNALIGNED]),
                single_face=True,
            )
        )
        return response.faces[0].embeddings

    async def _of_poi(self, name: str, field: str) -> Probes:
        store, _ = names.parse_poi(name, field)
        if store != self._history.store:
            raise wrong_store(field, self._history.store)
        poi = await self._pois.GetPoi(poi_pb2.GetPoiRequest(name=name, view=poi_pb2.POI_VIEW_FULL))
        return _probes([reference.embeddings for reference in poi.references])

    async def _of_appearance(self, name: str, field: str) -> Probes:
        store, text = names.parse_appearance(name, field)
        if store != self._history.store:
            raise wrong_store(field, self._history.store)
        found = await self._history.reads.appearance(appearance_id(text, name))
        if found is None:
            raise NotFound(name)
        scope = Scope(found.start_ns, found.end_ns + 1, [found.camera])
        rows, vectors = await asyncio.to_thread(self._history.index.faces_of, found.number, scope)
        if not len(vectors):
            raise FailedPrecondition(f"{name} has no face to search with", reason="NO_FACE")
        best = np.argsort(-rows["face_confidence"], kind="stable")[:_BEST_FACES]
        templates = np.concatenate([embeddings.normalise(vectors.mean(axis=0))[None], vectors[best]])
        return Probes(templates, templates)


def _of_photo(error: grpc.aio.AioRpcError, field: str) -> Exception:
    """What EmbeddingService said about a photo, in terms of our caller's request."""
    told = from_rpc(error)
    metadata = {**told.metadata, "field": field}
    if isinstance(told, InvalidArgument):
        return InvalidArgument(violations=[(field, told.message)], reason=told.reason, metadata=metadata)
    if isinstance(told, FailedPrecondition):
        return FailedPrecondition(f"{field}: {told.message}", reason=told.reason, metadata=metadata)
    return error


def _probes(faces: Sequence[Sequence[common_pb2.Embedding]]) -> Probes:
    """Templates of faces, each given by one or more embeddings. Raises FailedPrecondition when none is of our model."""
    aligned: list[Vector] = []
    unaligned: list[Vector] = []
    for kept in faces:
        vectors = {one.alignment: embeddings.decode(one) for one in kept if one.model == FACE_MODEL}
        if not vectors:
            continue
        if _MEAN not in vectors and _ALIGNED in vectors and _UNALIGNED in vectors:
            vectors[_MEAN] = embeddings.normalise(vectors[_ALIGNED] + vectors[_UNALIGNED])
        aligned.append(next(vectors[kind] for kind in _FOR_ALIGNED if kind in vectors))
        unaligned.append(next(vectors[kind] for kind in _FOR_UNALIGNED if kind in vectors))
    if not aligned:
        raise FailedPrecondition(f"there is no face of the model {FACE_MODEL}", reason="MODEL_MISMATCH")
    both: tuple[Vectors, Vectors] = np.stack(aligned), np.stack(unaligned)
    return Probes(*both)
