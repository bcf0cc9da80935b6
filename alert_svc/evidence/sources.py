"""Where the pictures of alerts come from and go to: history's frames, match's references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, history_pb2, history_pb2_grpc, poi_pb2, poi_pb2_grpc

from alert_svc.evidence.picture import Subject
from mesh import names
from mesh.errors import DataLoss, MeshError, NotFound, from_rpc, from_status

_SECONDS: Final = 10.0
_MAX_IMAGE_BYTES: Final = 16 << 20
_SAME_SCENE_NS: Final = 2_000_000_000
"""A frame so much earlier or later than the detection shows the person somewhere else: no boxes are drawn on it."""
_MATCH_NS: Final = 5_000_000_000
"""A frame that was kept for a match, this near to the detection, was kept for this one."""
_AFTER_NS: Final = 1_000
"""By which a picture is later than the frame it shows, so that it comes after that in lists."""


class Sources:
    """History and match, as seen by those who make pictures. What is awaited raises MeshError."""

    def __init__(self, history: grpc.aio.Channel, match: grpc.aio.Channel) -> None:
        self._history: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(history)
        self._pois: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(match)

    async def frames(self, appearance: str) -> Sequence[history_pb2.Frame]:
        """The frames of an appearance; none of one that is not there (any more)."""
        request = history_pb2.GetAppearanceRequest(name=appearance, view=history_pb2.APPEARANCE_VIEW_BASIC)
        try:
            found = await self._history.GetAppearance(request)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return []
            raise from_rpc(error) from None
        return found.frames

    async def image(self, frame: str) -> bytes:
        """The JPEG of a frame."""
        image = bytearray()
        try:
            async for part in self._history.GetFrame(history_pb2.GetFrameRequest(name=frame), timeout=_SECONDS):
                image += part.data
                if len(image) > _MAX_IMAGE_BYTES:
                    raise DataLoss(f"{frame} is larger than {_MAX_IMAGE_BYTES} bytes", reason="IMAGE_TOO_LARGE")
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        return bytes(image)

    async def reference(self, name: str) -> poi_pb2.ReferenceImage:
        """The picture of a reference. Raises NotFound where it has none, or is not there (any more)."""
        if not name:
            raise NotFound("a reference")
        try:
            return await self._pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=name))
        except grpc.aio.AioRpcError as error:
            # A server of before there were such pictures has none.
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
                raise NotFound(name) from None
            raise from_rpc(error) from None

    async def keep(self, frame: history_pb2.Frame, picture: bytes, appearance: str) -> str:
        """Makes a picture that shows `frame` durable, as a frame of the appearance; its name. A repeat is the same."""
        store_id = names.parse_frame(frame.name)[0]
        upload = history_pb2.FrameUpload(
            camera=frame.camera,
            kind=history_pb2.FRAME_KIND_EVIDENCE,
            image=picture,
            appearances=[appearance],
        )
        upload.capture_time.FromNanoseconds(frame.capture_time.ToNanoseconds() + _AFTER_NS)
        request = history_pb2.AppendDetectionsRequest(parent=names.store(store_id), frames=[upload])
        try:
            async for response in self._history.AppendDetections(iter([request]), timeout=_SECONDS):
                if response.frame_errors:
                    raise from_status(response.frame_errors[0].status)
                return response.frames[0]
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        raise MeshError("history gave no answer", reason="NO_ANSWER")


def choose(
    frames: Sequence[history_pb2.Frame], detect_time: Timestamp, *, settled: bool = True
) -> history_pb2.Frame | None:
    """The frame to show of an appearance: one kept for the match, else, once it is `settled`, the nearest."""
    detected = detect_time.ToNanoseconds()

    def distance(frame: history_pb2.Frame) -> int:
        return abs(frame.capture_time.ToNanoseconds() - detected)

    seen = [frame for frame in frames if frame.kind != history_pb2.FRAME_KIND_EVIDENCE]
    kept = [one for one in seen if one.kind == history_pb2.FRAME_KIND_MATCH and distance(one) <= _MATCH_NS]
    return min(kept or (seen if settled else []), key=distance, default=None)


def subject(alert: alert_pb2.Alert, frame: history_pb2.Frame, image: bytes) -> Subject:
    """What to show of the frame: boxes are the alert's, so they are left out where it was taken at another time."""
    apart = frame.capture_time.ToNanoseconds() - alert.detect_time.ToNanoseconds()
    near = abs(apart) <= _SAME_SCENE_NS
    clock = frame.capture_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    caption = f"{clock} UTC  {names.parse_camera(frame.camera)[1]}  ({apart / 1e9:+.1f} s)"
    return Subject(
        image,
        caption,
        alert.person_box if near and alert.HasField("person_box") else None,
        alert.face_box if near and alert.HasField("face_box") else None,
    )


def reference_subject(found: poi_pb2.ReferenceImage) -> Subject:
    """What to show of a reference."""
    return Subject(found.image, "reference", face=found.face_box if found.HasField("face_box") else None)
