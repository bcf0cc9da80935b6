"""Camera messages (`{root}/data/camera/{id}`) to detections.

Shapes that pipelines send, all of them taken: objects as `{"person": [...], "face": [...]}`; faces under a person's
`sub_objects.face[]` or directly under `objects.face[]`; boxes as list or object; embeddings under `metadata.reid` or
`reid`, as base64, list, nested list or JSON string, bare or as `{"embedding_vector", "model_name"}`; ids as number or
string; time as ISO 8601 or epoch seconds. A bad part costs itself: the rest of the message is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from poi.v1 import common_pb2

from ingest_svc import parsing, vectors
from ingest_svc.rejections import Problem, Refused
from mesh import names
from mesh.embeddings import DIMENSIONS


@dataclass(slots=True)
class CameraMessage:
    """What a camera message says."""

    camera: str
    """`stores/{store}/cameras/{camera}`."""
    detect_ms: int
    """The camera's time, in milliseconds since the epoch."""
    detections: list[common_pb2.Detection] = field(default_factory=list)
    """One for each person; those whose embedding was refused are there without it."""
    problems: list[Problem] = field(default_factory=list)
    """What was refused."""


def detection_id(camera_id: str, detect_ms: int, object_id: str) -> str:
    """32 hex digits that depend only on camera, time and object."""
    return blake2b(f"{camera_id}\n{detect_ms}\n{object_id}".encode(), digest_size=16).hexdigest()


class CameraParser:
    """Reads the camera messages of one store."""

    def __init__(self, store: str, *, model: str, aligned_cameras: frozenset[str], max_objects: int) -> None:
        self._store = store
        self._model = model
        self._dimension = DIMENSIONS[model]
        self._aligned = aligned_cameras
        self._max_objects = max_objects
        self._names: dict[str, str] = {}

    def parse(self, camera_id: str, payload: bytes) -> CameraMessage:
        """The message of a camera. Raises `Refused` when nothing of it can be used."""
        content = parsing.load_object(payload)
        message = CameraMessage(self._camera(camera_id), parsing.time_ms(content.get("timestamp"), "timestamp"))
        objects = content.get("objects")
        if objects is None:
            return message
        alignment = (
            common_pb2.ALIGNMENT_ALIGNED
            if camera_id in self._aligned or "*" in self._aligned
            else common_pb2.ALIGNMENT_UNALIGNED
        )
        reader = _Reader(message, camera_id, self._model, self._dimension)
        found = _people(objects, message.problems, self._max_objects)
        for index, (path, person, faces) in enumerate(found):
            reader.person(index, path, person, faces)
        reader.attach_vectors(alignment)
        return message

    def _camera(self, camera_id: str) -> str:
        name = self._names.get(camera_id)
        if name is None:
            if not names.is_id(camera_id):
                raise Refused("BAD_ID", "topic", "the camera in the topic is not an id")
            if len(self._names) >= 10_000:  # topics come from the street: memory stays bounded
                self._names.clear()
            name = self._names[camera_id] = names.camera(self._store, camera_id)
        return name


class _Reader:
    """Turns the objects of one message into its detections."""

    def __init__(self, message: CameraMessage, camera_id: str, model: str, dimension: int) -> None:
        self._message = message
        self._camera_id = camera_id
        self._model = model
        self._dimension = dimension
        self._seconds, milliseconds = divmod(message.detect_ms, 1000)
        self._nanos = milliseconds * 1_000_000
        self._seen: set[str] = set()
        self._vectors: list[bytes] = []
        self._fields: list[str] = []
        self._owners: list[common_pb2.Detection] = []

    def person(self, index: int, path: str, person: dict[str, Any] | None, faces: list[_Face]) -> None:
        """Adds a detection for the person, and one more for each further face in the box."""
        problems = self._message.problems
        try:
            source = person if person is not None else faces[0][1]
            value = source.get("id")
            # An object without an id cannot be tracked, but must still be matched: its place in the message stands in.
            object_id = parsing.identifier(value, f"{path}.id") if value is not None else f"unnamed-{index}"
            person_box = parsing.box(person.get("bounding_box_px"), f"{path}.bounding_box_px") if person else None
        except Refused as refused:
            problems.append(refused.problem)
            return
        person_confidence = parsing.confidence(person.get("confidence")) if person else 0.0
        if not faces:
            self._add(object_id, person_box, person_confidence)
            return
        faces.sort(key=lambda item: parsing.confidence(item[1].get("confidence")), reverse=True)
        for number, (face_path, face) in enumerate(faces):
            name = object_id if number == 0 else f"{object_id}~{number + 1}"
            detection = self._add(name, person_box, person_confidence)
            detection.face_confidence = parsing.confidence(face.get("confidence"))
            self._face(detection, face_path, face)

    def _add(
        self, object_id: str, person_box: tuple[float, float, float, float] | None, confidence: float
    ) -> common_pb2.Detection:
        given, number = object_id, 1
        while object_id in self._seen:  # two objects with one id in one message are two detections
            number += 1
            # A number, for the whole must stay short enough for history however many they are.
            object_id = f"{given}~" if number == 2 else f"{given}~~{number}"
        self._seen.add(object_id)
        message = self._message
        detection = common_pb2.Detection(
            detection_id=detection_id(self._camera_id, message.detect_ms, object_id),
            camera=message.camera,
            object_id=object_id,
            person_confidence=confidence,
        )
        time = detection.detect_time
        time.seconds = self._seconds
        time.nanos = self._nanos
        if person_box is not None:
            _set_box(detection.person_box, person_box)
        message.detections.append(detection)
        return detection

    def _face(self, detection: common_pb2.Detection, path: str, face: dict[str, Any]) -> None:
        try:
            face_box = parsing.box(face.get("bounding_box_px"), f"{path}.bounding_box_px")
            if face_box is not None:
                _set_box(detection.face_box, face_box)
            value, model, where = _embedding(face, path)
            if value is None:
                return
            if model is not None and model != self._model:
                raise Refused("WRONG_MODEL", where, f"this store matches {self._model} only")
            self._vectors.append(vectors.raw_bytes(value, where, self._dimension))
        except Refused as refused:
            self._message.problems.append(refused.problem)
            return
        self._fields.append(where)
        self._owners.append(detection)

    def attach_vectors(self, alignment: common_pb2.Alignment.ValueType) -> None:
        """Checks and normalises the embeddings of all faces at once and gives each to its detection."""
        checked = vectors.normalise(self._vectors, self._fields, self._dimension)
        for detection, vector in zip(self._owners, checked, strict=True):
            if isinstance(vector, Problem):
                self._message.problems.append(vector)
                continue
            embedding = detection.embedding
            embedding.model = self._model
            embedding.vector = vector
            embedding.alignment = alignment


_Face = tuple[str, dict[str, Any]]


def _people(
    objects: object, problems: list[Problem], most: int
) -> list[tuple[str, dict[str, Any] | None, list[_Face]]]:
    """(path, person or None, [(path, face)]) for each person and for each face without one.

    Raises Refused where there are more than `most`: each counts, and what stands in its place and is none, and each
    further face of a person. A message has room for millions, so that it is counted before anything is made of it.
    """
    found: list[tuple[str, dict[str, Any] | None, list[_Face]]] = []
    number = 0
    for category, path, item in _items(objects, problems):
        faces = _raw_faces(item) if category == "person" else None
        number += max(1, len(faces)) if isinstance(faces, list) else 1
        if number > most:
            raise Refused("TOO_MANY_OBJECTS", "objects", f"more than {most} objects")
        where = "{}[{}]".format(*path)
        if not isinstance(item, dict):
            problems.append(Problem("BAD_OBJECT", where, "must be an object"))
        elif category == "face":
            found.append((where, None, [(where, item)]))
        else:
            found.append((where, item, _faces(where, faces, problems)))
    return found


def _items(objects: object, problems: list[Problem]) -> Iterator[tuple[str, tuple[str, int], object]]:
    """(category, (path of its list, position), object): persons, then faces."""
    if isinstance(objects, list):  # a flat list with a category in each object
        for category in ("person", "face"):
            for position, item in enumerate(objects):
                said = item.get("category", item.get("type", "person")) if isinstance(item, dict) else "person"
                if said == category:
                    yield category, ("objects", position), item
    elif isinstance(objects, dict):
        for category in ("person", "face"):
            items = objects.get(category) or []
            if not isinstance(items, list):
                problems.append(Problem("BAD_OBJECT", f"objects.{category}", "must be a list"))
                continue
            for position, item in enumerate(items):
                yield category, (f"objects.{category}", position), item
    else:
        raise Refused("BAD_OBJECT", "objects", "must be an object or a list")


def _raw_faces(person: object) -> object:
    parts = person.get("sub_objects") if isinstance(person, dict) else None
    return parts.get("face") if isinstance(parts, dict) else None


def _faces(path: str, faces: object, problems: list[Problem]) -> list[_Face]:
    """(path, face) of those of a person."""
    if faces is None:
        return []
    if not isinstance(faces, list):
        problems.append(Problem("BAD_OBJECT", f"{path}.sub_objects.face", "must be a list"))
        return []
    found: list[_Face] = []
    for position, face in enumerate(faces):
        if isinstance(face, dict):
            found.append((f"{path}.sub_objects.face[{position}]", face))
        else:
            problems.append(Problem("BAD_OBJECT", f"{path}.sub_objects.face[{position}]", "must be an object"))
    return found


def _embedding(face: dict[str, Any], path: str) -> tuple[object, str | None, str]:
    """The embedding as it was sent, its model if it says one, and its path; None where there is none."""
    metadata = face.get("metadata")
    reid, where = (metadata.get("reid"), f"{path}.metadata.reid") if isinstance(metadata, dict) else (None, "")
    if reid is None:
        reid, where = face.get("reid"), f"{path}.reid"
    if isinstance(reid, dict):
        model = reid.get("model_name")
        return (
            reid.get("embedding_vector"),
            model if isinstance(model, str) and model else None,
            f"{where}.embedding_vector",
        )
    return reid, None, where


def _set_box(target: common_pb2.BoundingBox, values: tuple[float, float, float, float]) -> None:
    target.x, target.y, target.width, target.height = values
