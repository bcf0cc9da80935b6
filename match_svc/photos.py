"""From a photo to a reference: asks the embedding service for its faces, and says what is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, poi_pb2

from match_svc.images import Cutter
from mesh import names
from mesh.embeddings import decode
from mesh.errors import InvalidArgument, MeshError, ResourceExhausted, Unavailable, from_rpc

ALIGNMENTS: Final = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_MEAN)
"""Of the embeddings of a reference."""

_LOOK_CONFIDENCE: Final = 0.5
"""What is asked of the detector: enough to say that a face is there, though too uncertain."""
_RIVAL_CONFIDENCE: Final = 0.8
"""From here on a second hit counts as a face. Backs of heads reach 0.5 to 0.8."""
_MOST_FACES: Final = 8
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Least:
    """What a face needs to be a reference."""

    confidence: float
    """Of the detector."""
    width_px: int
    sharpness: float
    yaw: float
    """Degrees at most, to either side; so are pitch and roll."""
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True)
class Face:
    """One photo or embedding of a request, as it was found."""

    report: poi_pb2.FaceReport
    reference: poi_pb2.Reference | None = None
    """Not named yet; None where there is no face to make one of."""
    image: poi_pb2.ReferenceImage | None = None
    """To be kept with it."""
    refusal: InvalidArgument | None = None
    """Why the photo could not even be looked at."""


class Photos:
    """Looks at photos."""

    def __init__(
        self,
        embedding: embedding_pb2_grpc.EmbeddingServiceAsyncStub,
        timeout: float,
        least: Least,
        cutter: Cutter,
    ) -> None:
        """`timeout` in seconds is the longest wait for the faces of one photo."""
        self._embedding = embedding
        self._timeout = timeout
        self._least = least
        self._cutter = cutter

    async def look(self, store: str, images: Sequence[bytes], fields: Sequence[str]) -> list[Face]:
        """What is on each photo; `fields` are their names in the request. Raises Unavailable, ResourceExhausted."""
        tasks = [
            asyncio.create_task(self._look(store, image, index, field))
            for index, (image, field) in enumerate(zip(images, fields, strict=True))
        ]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _look(self, store: str, image: bytes, index: int, field: str) -> Face:
        report = poi_pb2.FaceReport(index=index)
        request = embedding_pb2.DetectFacesRequest(
            parent=names.store(store),
            image=image,
            options=embedding_pb2.FaceOptions(
                min_confidence=_LOOK_CONFIDENCE, max_faces=_MOST_FACES, alignments=ALIGNMENTS
            ),
        )
        try:
            found = (await self._embedding.DetectFaces(request, timeout=self._timeout)).faces
        except grpc.aio.AioRpcError as error:
            told = of_photo(error, field)
            if not isinstance(told, InvalidArgument):
                raise told from error
            report.problems.add(reason=told.reason, description=told.message)
            return Face(report, refusal=told)
        rivals = sum(1 for face in found if face.confidence >= min(_RIVAL_CONFIDENCE, self._least.confidence))
        if not found:
            report.problems.add(reason="NO_FACE", value=0, limit=1, description="the image shows no face")
            return Face(report)
        if rivals > 1:
            report.problems.add(
                reason="MULTIPLE_FACES",
                value=rivals,
                limit=1,
                description=f"the image shows {rivals} faces where one is wanted",
            )
            return Face(report)
        face = found[0]
        for embedding in face.embeddings:
            decode(embedding, field=field)
        report.quality.CopyFrom(face.quality)
        report.problems.extend(problems(face.quality, self._least))
        reference = poi_pb2.Reference(model=face.embeddings[0].model, quality=face.quality, embeddings=face.embeddings)
        picture = None if report.problems else await self._cutter.cut(image, face.box)
        reference.has_image = picture is not None
        return Face(report, reference, picture)


def problems(quality: common_pb2.FaceQuality, least: Least) -> list[poi_pb2.QualityProblem]:
    """Everything that keeps a face from being a reference, with its value and limit."""
    found: list[poi_pb2.QualityProblem] = []

    def note(reason: str, value: float, limit: float, text: str) -> None:
        found.append(poi_pb2.QualityProblem(reason=reason, value=value, limit=limit, description=text))

    # Values come as float32: 0.9 is 0.89999998 there.
    confidence, sharp = round(quality.detector_confidence, 4), round(quality.sharpness, 4)
    if confidence < least.confidence:
        text = f"the detector is {confidence:.2f} sure that it is a face; {least.confidence:.2f} is needed"
        note("LOW_CONFIDENCE", confidence, least.confidence, text)
    if quality.face_width_px < least.width_px:
        text = f"the face is {quality.face_width_px:.0f} px wide; {least.width_px} px are needed"
        note("FACE_TOO_SMALL", quality.face_width_px, least.width_px, text)
    if sharp < least.sharpness:
        note("TOO_BLURRED", sharp, least.sharpness, f"its sharpness is {sharp:.2f}; {least.sharpness:.2f} is needed")
    for angle, limit, verb in (
        (quality.yaw_degrees, least.yaw, "turned to the side"),
        (quality.pitch_degrees, least.pitch, "tilted up or down"),
        (quality.roll_degrees, least.roll, "leaning to a shoulder"),
    ):
        if abs(angle) > limit:
            text = f"the head is {verb} by {abs(angle):.0f} degrees; {limit:.0f} are the most"
            note("NOT_FRONTAL", abs(angle), limit, text)
    return found


def of_photo(error: grpc.aio.AioRpcError, field: str) -> Exception:
    """What the embedding service said, in terms of our caller's request."""
    if error.code() in _AWAY:
        return Unavailable("the embedding service cannot be reached", reason="EMBEDDING_UNAVAILABLE", retry_after=1.0)
    told: MeshError = from_rpc(error)
    if isinstance(told, InvalidArgument):
        metadata = {**told.metadata, "field": field}
        return InvalidArgument(violations=[(field, told.message)], reason=told.reason, metadata=metadata)
    return told if isinstance(told, ResourceExhausted) else error
