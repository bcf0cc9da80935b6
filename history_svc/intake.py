"""Checks a batch of AppendDetections item by item and takes it apart: a bad item costs itself and not its batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2, history_pb2

from history_svc import metrics
from history_svc.appearances import Vector
from history_svc.frames import frame_id, is_jpeg
from history_svc.records import HAS_FACE_BOX, HAS_PERSON_BOX, HAS_VECTOR, Frame, Rows, Track
from mesh import embeddings, names
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, to_status

MAX_DETECTIONS = 256
_MAX_ITEMS = 4 * MAX_DETECTIONS
"""Detections or frames that are answered one by one. A message holds millions of empty ones, and a refusal takes fifty
times the room of one."""
_MAX_OBJECT_ID = 256
_NO_BOX = (0.0, 0.0, 0.0, 0.0)
# Of two equally sure faces the larger one is better: at most 0.001 for it.
_AREA_WEIGHT, _MAX_AREA = 1e-10, 1e7


class Observation(NamedTuple):
    """One sound detection of a batch."""

    detection: bytes
    track: Track
    time_ns: int
    flags: int
    alignment: int
    boxes: tuple[float, ...]
    """Person and face box (x, y, width, height in pixels each), person and face confidence."""
    score: float
    """face_score of its face."""
    vector: Vector | None


def face_score(flags: int, confidence: float, area: float) -> float:
    """How good a face is, for the best moment of an appearance; below 0 without one. `area` in pixels."""
    if not flags & (HAS_VECTOR | HAS_FACE_BOX):
        return -1.0
    area = 0.0 if area < 0.0 else min(area, _MAX_AREA)
    return (confidence if confidence > 0.0 else 0.0) + _AREA_WEIGHT * area


def face_scores(rows: Rows) -> NDArray[np.float64]:
    """(n,) `face_score` of each row."""
    areas = rows["face_box"][:, 2].astype(np.float64) * rows["face_box"][:, 3]
    scores = np.maximum(rows["face_confidence"], 0.0) + _AREA_WEIGHT * np.clip(areas, 0.0, _MAX_AREA)
    return np.where(rows["flags"] & (HAS_VECTOR | HAS_FACE_BOX) != 0, scores, -1.0)


@dataclass(slots=True)
class Upload:
    """One sound evidence frame of a request, at `index`. `appearances` are ids."""

    index: int
    frame: Frame
    image: bytes
    appearances: tuple[bytes, ...]


@dataclass(slots=True)
class Batch:
    """What a request brings, and what of it was refused."""

    batch_id: int
    observations: list[Observation] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    errors: list[common_pb2.ItemError] = field(default_factory=list)
    frame_errors: list[common_pb2.ItemError] = field(default_factory=list)
    frame_count: int = 0


@dataclass(frozen=True, slots=True)
class Intake:
    """What a store takes. `model` and `dimension` are those of its face embeddings."""

    store: str
    model: str
    dimension: int
    max_frame_bytes: int

    def read(self, request: history_pb2.AppendDetectionsRequest, oldest_ns: int, newest_ns: int) -> Batch:
        """Sorts a request into what is sound and what is not; times must be in [oldest_ns, newest_ns].

        Raises InvalidArgument when there is far too much in it to be answered one by one.
        """
        for name, items in (("detections", request.detections), ("frames", request.frames)):
            if len(items) > _MAX_ITEMS:
                raise InvalidArgument(
                    violations=[(name, f"has {len(items)} items: {MAX_DETECTIONS} are a batch")],
                    reason="BATCH_TOO_LARGE",
                )
        batch = Batch(request.batch_id, frame_count=len(request.frames))
        foreign = self._foreign(request.parent)
        detections = request.detections[:MAX_DETECTIONS]
        faces = [one.embedding if one.HasField("embedding") else None for one in detections]
        vectors, bad = embeddings.decode_batch(
            [face for face in faces if face is not None], model=self.model, dimension=self.dimension
        )
        row = -1
        for index, (detection, face) in enumerate(zip(detections, faces, strict=True)):
            vector = None
            if face is not None:
                row += 1
                vector = vectors[row]
            try:
                if foreign is not None:
                    raise foreign
                if face is not None and row in bad:
                    raise _bad_embedding(face.model, self.model, bad[row])
                batch.observations.append(self._observe(detection, face, vector, oldest_ns, newest_ns))
            except MeshError as error:
                batch.errors.append(item_error(index, detection.detection_id, error))
        for index in range(MAX_DETECTIONS, len(request.detections)):
            surplus = InvalidArgument(f"a batch has at most {MAX_DETECTIONS} detections", reason="BATCH_TOO_LARGE")
            batch.errors.append(item_error(index, request.detections[index].detection_id, surplus))
        for index, upload in enumerate(request.frames):
            try:
                if foreign is not None:
                    raise foreign
                batch.uploads.append(self._upload(index, upload, oldest_ns, newest_ns))
            except MeshError as error:
                batch.frame_errors.append(item_error(index, "", error))
        return batch

    def _foreign(self, parent: str) -> MeshError | None:
        try:
            (store,) = names.parse_store(parent, "parent")
        except MeshError as error:
            return error
        return None if store == self.store else wrong_store("parent", self.store)

    def _observe(
        self,
        detection: common_pb2.Detection,
        embedding: common_pb2.Embedding | None,
        vector: Vector | None,
        oldest_ns: int,
        newest_ns: int,
    ) -> Observation:
        object_id, moment = detection.object_id, detection.detect_time
        time_ns = moment.seconds * 1_000_000_000 + moment.nanos
        if not oldest_ns <= time_ns <= newest_ns:
            if not detection.HasField("detect_time"):
                raise _wrong("detect_time", "is needed")
            raise _time_out_of_range("detect_time")
        if not 0 < len(object_id) <= _MAX_OBJECT_ID:
            raise _wrong("object_id", f"must have 1 to {_MAX_OBJECT_ID} characters")
        flags = 0 if vector is None else HAS_VECTOR
        person = face = _NO_BOX
        if detection.HasField("person_box"):
            flags |= HAS_PERSON_BOX
            box = detection.person_box
            person = (box.x, box.y, box.width, box.height)
        if detection.HasField("face_box"):
            flags |= HAS_FACE_BOX
            box = detection.face_box
            face = (box.x, box.y, box.width, box.height)
        person_confidence, face_confidence = detection.person_confidence, detection.face_confidence
        boxes = (*person, *face, person_confidence, face_confidence)
        if not isfinite(sum(boxes)):
            raise _wrong("person_box", "boxes and confidences must be finite numbers")
        return Observation(
            _detection_id(detection.detection_id),
            (_camera(detection.camera, self.store), object_id),
            time_ns,
            flags,
            embedding.alignment & 0xFF if embedding is not None else 0,
            boxes,
            face_score(flags, face_confidence, face[2] * face[3]),
            vector,
        )

    def _upload(self, index: int, upload: history_pb2.FrameUpload, oldest_ns: int, newest_ns: int) -> Upload:
        camera = _camera(upload.camera, self.store)
        if not upload.HasField("capture_time"):
            raise _wrong("capture_time", "is needed")
        time_ns = upload.capture_time.seconds * 1_000_000_000 + upload.capture_time.nanos
        if not oldest_ns <= time_ns <= newest_ns:
            raise _time_out_of_range("capture_time")
        image = upload.image
        if len(image) > self.max_frame_bytes:
            raise InvalidArgument(
                violations=[("image", f"has {len(image)} bytes, {self.max_frame_bytes} at most")],
                reason="IMAGE_TOO_LARGE",
            )
        if not is_jpeg(image):
            raise InvalidArgument(violations=[("image", "is not a JPEG")], reason="IMAGE_UNDECODABLE")
        appearances = []
        for name in upload.appearances:
            store, appearance = names.parse_appearance(name, "appearances")
            if store != self.store:
                raise wrong_store("appearances", self.store)
            appearances.append(appearance_id(appearance, name))
        frame = Frame(frame_id(camera, time_ns, image), camera, time_ns, upload.kind, len(image))
        return Upload(index, frame, image, tuple(appearances))


def item_error(index: int, item_id: str, error: MeshError) -> common_pb2.ItemError:
    """The answer to a refused item."""
    metrics.REFUSED.labels(error.reason).inc()
    return common_pb2.ItemError(index=index, item_id=item_id[:128], status=to_status(error))


def appearance_id(text: str, name: str) -> bytes:
    """The 16 bytes of an appearance's id. Raises NotFound for an id that no appearance can have."""
    try:
        return _hex_id(text)
    except ValueError:
        raise NotFound(name) from None


def wrong_store(field_path: str, store: str) -> InvalidArgument:
    """The caller means another store than the one that is kept here."""
    return InvalidArgument(violations=[(field_path, f"this server keeps stores/{store}")], reason="WRONG_STORE")


def _hex_id(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 16 or value.hex() != text:
        raise ValueError("not 32 hex digits")
    return value


def _detection_id(text: str) -> bytes:
    try:
        return _hex_id(text)
    except ValueError:
        raise _wrong("detection_id", "must be 32 lower-case hex digits") from None


@lru_cache(maxsize=4096)
def _camera(name: str, store: str) -> str:
    """The id of a camera of `store` (cached: there are few)."""
    of_store, camera = names.parse_camera(name, "camera")
    if of_store != store:
        raise wrong_store("camera", store)
    return camera


def _wrong(field_path: str, description: str) -> InvalidArgument:
    return InvalidArgument(violations=[(field_path, description)])


def _time_out_of_range(field_path: str) -> InvalidArgument:
    return InvalidArgument(
        violations=[(field_path, "is older than what is kept, or too far in the future")], reason="TIME_OUT_OF_RANGE"
    )


def _bad_embedding(model: str, expected: str, why: str) -> MeshError:
    if model != expected:
        return FailedPrecondition(f"embedding.{why}", reason="MODEL_MISMATCH", metadata={"expected": expected})
    return InvalidArgument(violations=[("embedding.vector", why)], reason="INVALID_EMBEDDING")
