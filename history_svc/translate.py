"""From what is kept to the messages of the contract."""

from __future__ import annotations

from collections.abc import Awaitable

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, history_pb2

from history_svc.appearances import Appearance
from history_svc.erasure import Receipt
from history_svc.intake import Batch, item_error
from history_svc.records import HAS_FACE_BOX, HAS_PERSON_BOX, PACKED, Frame
from history_svc.store import Appending
from mesh import names

_NS = 1_000_000_000


def timestamp(time_ns: int) -> Timestamp:
    """Nanoseconds since 1970 as a Timestamp."""
    return Timestamp(seconds=time_ns // _NS, nanos=time_ns % _NS)


def nanoseconds(moment: Timestamp) -> int:
    """A Timestamp as nanoseconds since 1970."""
    return moment.seconds * _NS + moment.nanos


def sighting(row: bytes) -> history_pb2.Sighting:
    """A packed row as a Sighting."""
    detection, _, time_ns, _, flags, _, *rest = PACKED.unpack(row)
    message = history_pb2.Sighting(
        detection_id=detection.hex(), detect_time=timestamp(time_ns), face_confidence=rest[9]
    )
    if flags & HAS_PERSON_BOX:
        message.person_box.CopyFrom(_box(rest[0:4]))
    if flags & HAS_FACE_BOX:
        message.face_box.CopyFrom(_box(rest[4:8]))
    return message


def frame(store: str, one: Frame) -> history_pb2.Frame:
    """A frame without its image."""
    return history_pb2.Frame(
        name=names.frame(store, one.id),
        camera=names.camera(store, one.camera),
        capture_time=timestamp(one.time_ns),
        kind=history_pb2.FrameKind.ValueType(one.kind),
        size_bytes=one.size,
    )


def appearance(store: str, one: Appearance, best: bytes = b"") -> history_pb2.Appearance:
    """An appearance without visits; `best` is a packed row to show instead of the one with the best face."""
    best = best or one.best
    return history_pb2.Appearance(
        name=names.appearance(store, one.id.hex()),
        camera=names.camera(store, one.camera),
        object_id=one.object_id,
        start_time=timestamp(one.start_ns),
        end_time=timestamp(one.end_ns),
        entry=sighting(one.entry),
        exit=sighting(one.exit),
        best=sighting(best) if best else None,
        detection_count=one.count,
        face_count=one.face_count,
        frames=[frame(store, kept) for kept in one.frames],
    )


def erasure(store: str, one: Receipt) -> history_pb2.Erasure:
    """What was erased, or would be."""
    message = history_pb2.Erasure(
        name=names.erasure(store, one.id) if one.id else "",
        appearance_count=one.appearances,
        detection_count=one.detections,
        face_count=one.faces,
        frame_count=one.frames,
        file_count=one.files,
        quarantined_file_count=one.quarantined,
    )
    if one.begun_ns:
        message.create_time.CopyFrom(timestamp(one.begun_ns))
    if one.done_ns:
        message.complete_time.CopyFrom(timestamp(one.done_ns))
    return message


async def answer(store: str, batch: Batch, appending: Appending) -> history_pb2.AppendDetectionsResponse:
    """The answer to a batch once it is on disk. Raises MeshError when the disk did not take it."""
    response = history_pb2.AppendDetectionsResponse(batch_id=batch.batch_id, errors=batch.errors)
    if appending.detections is not None:
        await _answer_detections(store, batch, appending.detections, response)
    if appending.frames is not None or batch.frame_errors:
        stored = [""] * batch.frame_count
        errors = list(batch.frame_errors)
        refusals = await appending.frames if appending.frames is not None else []
        for upload, refusal in zip(batch.uploads, refusals, strict=True):
            if refusal is None:
                stored[upload.index] = names.frame(store, upload.frame.id)
            else:
                errors.append(item_error(upload.index, "", refusal))
        response.frames.extend(stored)
        response.frame_errors.extend(sorted(errors, key=lambda error: error.index))
    return response


async def _answer_detections(
    store: str,
    batch: Batch,
    detections: Awaitable[list[bytes]],
    response: history_pb2.AppendDetectionsResponse,
) -> None:
    prefix = names.appearance(store, "x")[:-1]
    stored = response.stored
    for one, appearance_id in zip(batch.observations, await detections, strict=True):
        detection = one.detection
        stored.add(
            detection_id=detection.hex(),
            appearance=prefix + appearance_id.hex(),
            first=detection == appearance_id,
        )


def _box(values: list[float]) -> common_pb2.BoundingBox:
    return common_pb2.BoundingBox(x=values[0], y=values[1], width=values[2], height=values[3])
