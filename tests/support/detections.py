"""Contract messages with sensible contents, of which a test states what it is about."""

import hashlib
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2

from tests.support.vectors import Vector

FACE_MODEL = "face-reidentification-retail-0095"
START = datetime(2026, 11, 20, 9, 0, 0, tzinfo=UTC)


def moment(seconds: float) -> Timestamp:
    """A time so many seconds after the tests' start of time, `START`."""
    timestamp = Timestamp()
    timestamp.FromDatetime(START + timedelta(seconds=seconds))
    return timestamp


def embedding(
    vector: Vector,
    *,
    model: str = FACE_MODEL,
    alignment: common_pb2.Alignment.ValueType = common_pb2.ALIGNMENT_UNALIGNED,
) -> common_pb2.Embedding:
    """An embedding as it is on the wire; the vector is not checked, so that a test can send a wrong one."""
    return common_pb2.Embedding(model=model, vector=vector.astype("<f4").tobytes(), alignment=alignment)


def detection(
    face: Vector | None = None,
    *,
    at: float = 0.0,
    camera: str = "Camera_01",
    object_id: str = "1",
    store: str = "store-1",
    alignment: common_pb2.Alignment.ValueType = common_pb2.ALIGNMENT_UNALIGNED,
) -> common_pb2.Detection:
    """One person on one camera, `at` seconds after `START`, with a face where a vector is given.

    The id depends on store, camera, time and object only, so a repeated call is a repeated detection.
    """
    identity = hashlib.blake2b(f"{store}/{camera}/{round(at * 1000)}/{object_id}".encode(), digest_size=16)
    message = common_pb2.Detection(
        detection_id=identity.hexdigest(),
        camera=f"stores/{store}/cameras/{camera}",
        object_id=object_id,
        detect_time=moment(at),
        person_box=common_pb2.BoundingBox(x=500, y=20, width=350, height=500),
        person_confidence=0.99,
    )
    if face is not None:
        message.embedding.CopyFrom(embedding(face, alignment=alignment))
        message.face_box.CopyFrom(common_pb2.BoundingBox(x=600, y=100, width=120, height=170))
        message.face_confidence = 0.99
    return message
