"""`poi.v1.EmbeddingService` on top of the vision core: requests in, messages out, nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

from embed_svc import images, metrics
from embed_svc.faces import Alignment, Face, FaceFinder, single
from embed_svc.models import Manifest, Task
from embed_svc.settings import EmbedSettings
from embed_svc.work import Workers, in_order
from mesh import embeddings, errors, names, pages
from mesh.interceptors import ValidationInterceptor
from mesh.streams import until_drained

SERVICE = "poi.v1.EmbeddingService"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_MIN_CONFIDENCE = 0.5
_MAX_FACES = 64
_ALIGNMENTS = {
    common_pb2.ALIGNMENT_ALIGNED: Alignment.ALIGNED,
    common_pb2.ALIGNMENT_UNALIGNED: Alignment.UNALIGNED,
    common_pb2.ALIGNMENT_MEAN: Alignment.MEAN,
}
_TASKS = {
    Task.DETECTION: embedding_pb2.MODEL_TASK_FACE_DETECTION,
    Task.LANDMARKS: embedding_pb2.MODEL_TASK_FACE_LANDMARKS,
    Task.EMBEDDING: embedding_pb2.MODEL_TASK_FACE_EMBEDDING,
}


@dataclass(frozen=True, slots=True)
class _Analysed:
    faces: list[Face]
    width: int
    height: int


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Translates between the contract and `FaceFinder`."""

    def __init__(
        self,
        finder: FaceFinder,
        manifest: Manifest,
        workers: Workers,
        settings: EmbedSettings,
        draining: asyncio.Event,
    ) -> None:
        """`manifest` lists the models of `finder`; `draining` ends streams (`mesh.server.Server.draining`)."""
        self._finder = finder
        self._manifest = manifest
        self._workers = workers
        self._settings = settings
        self._draining = draining
        self._contract = ValidationInterceptor()

    async def DetectFaces(
        self, request: embedding_pb2.DetectFacesRequest, context: Context
    ) -> embedding_pb2.DetectFacesResponse:
        """The faces of one image."""
        found = await self._workers.run(lambda: self._analyse(request.image, request.options))
        if request.single_face:
            single(found.faces)
        return embedding_pb2.DetectFacesResponse(
            faces=_faces(found.faces, request.options), image_width=found.width, image_height=found.height
        )

    async def StreamFaces(
        self,
        request_iterator: AsyncIterator[embedding_pb2.StreamFacesRequest],
        context: Context,
    ) -> AsyncIterator[embedding_pb2.StreamFacesResponse]:
        """One answer a frame, in the order of the frames."""
        frames = until_drained(request_iterator, self._draining)
        async for answer in in_order(frames, self._answer, self._settings.stream_window):
            yield answer

    async def ListModels(
        self, request: embedding_pb2.ListModelsRequest, context: Context
    ) -> embedding_pb2.ListModelsResponse:
        """The models that are loaded, by name."""
        after = pages.decode(request.page_token, request, after=pages.text).get("after", "")
        size = pages.clamp(request.page_size, 50, 1000)
        models = sorted((self._model(request.parent, task) for task in Task), key=lambda model: model.name)
        rest = [model for model in models if model.name > after]
        page = rest[:size]
        token = pages.encode({"after": page[-1].name}, request) if len(rest) > len(page) else ""
        return embedding_pb2.ListModelsResponse(models=page, next_page_token=token)

    async def _answer(self, request: embedding_pb2.StreamFacesRequest) -> embedding_pb2.StreamFacesResponse:
        response = embedding_pb2.StreamFacesResponse(frame_id=request.frame_id)
        if request.HasField("capture_time"):
            response.capture_time.CopyFrom(request.capture_time)
        try:
            names.parse_store(request.parent, field="parent")
            self._check(request.options)
            found = await self._workers.run(lambda: self._analyse(request.image, request.options), patient=True)
            response.faces.extend(_faces(found.faces, request.options))
        except errors.MeshError as error:
            response.error.CopyFrom(errors.to_status(error))
        return response

    def _check(self, options: embedding_pb2.FaceOptions) -> None:
        try:
            self._contract.check(options)
        except errors.InvalidArgument as error:
            raise errors.InvalidArgument(
                violations=[(f"options.{field}", why) for field, why in error.violations]
            ) from None

    @metrics.IMAGE_SECONDS.time()
    def _analyse(self, data: bytes, options: embedding_pb2.FaceOptions) -> _Analysed:
        try:
            image = images.decode(
                data, max_bytes=self._settings.max_image_bytes, max_pixels=self._settings.max_image_pixels
            )
        except errors.MeshError as error:
            metrics.REFUSED.labels(error.reason).inc()
            raise
        faces = self._finder.find(
            image,
            min_confidence=options.min_confidence if options.HasField("min_confidence") else _MIN_CONFIDENCE,
            max_faces=options.max_faces or _MAX_FACES,
            alignments=[_ALIGNMENTS[kind] for kind in _wanted(options)],
        )
        metrics.FACES.inc(len(faces))
        return _Analysed(faces, width=image.shape[1], height=image.shape[0])

    def _model(self, parent: str, task: Task) -> embedding_pb2.Model:
        weights = self._manifest.weights(task)
        return embedding_pb2.Model(
            name=f"{parent}/models/{weights.name}",
            task=_TASKS[task],
            precision=weights.precision,
            dimension=embeddings.DIMENSIONS[weights.name] if task is Task.EMBEDDING else 0,
            sha256=weights.sha256,
            license=weights.license,
        )


def _wanted(options: embedding_pb2.FaceOptions) -> Sequence[common_pb2.Alignment.ValueType]:
    return options.alignments or (common_pb2.ALIGNMENT_ALIGNED,)


def _faces(faces: Sequence[Face], options: embedding_pb2.FaceOptions) -> list[embedding_pb2.Face]:
    return [_face(face, _wanted(options)) for face in faces]


def _face(face: Face, alignments: Sequence[common_pb2.Alignment.ValueType]) -> embedding_pb2.Face:
    x, y, width, height = face.box
    quality = face.quality
    return embedding_pb2.Face(
        box=common_pb2.BoundingBox(x=x, y=y, width=width, height=height),
        landmarks=[embedding_pb2.Point(x=px, y=py) for px, py in face.landmarks.tolist()],
        confidence=quality.confidence,
        quality=common_pb2.FaceQuality(
            score=quality.score,
            face_width_px=quality.face_width,
            sharpness=quality.sharpness,
            yaw_degrees=quality.yaw,
            pitch_degrees=quality.pitch,
            roll_degrees=quality.roll,
            detector_confidence=quality.confidence,
        ),
        embeddings=[
            embeddings.encode(vector, model=embeddings.FACE_MODEL, alignment=alignment)
            for vector, alignment in zip(face.embeddings, alignments, strict=True)
        ],
    )
