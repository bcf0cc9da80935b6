"""A client of HistoryService for tests, and detections of the last hour."""

import time
from collections.abc import AsyncIterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, history_pb2, history_pb2_grpc

from mesh.channels import connect
from tests.support import detection as detection_at_start
from tests.support.vectors import Vector

STORE = "stores/store-1"
_BEGIN_MS = int(time.time() - 3600) * 1000


def moment(seconds: float) -> Timestamp:
    """So many seconds after a moment an hour ago."""
    timestamp = Timestamp()
    timestamp.FromMilliseconds(_BEGIN_MS + round(seconds * 1000))
    return timestamp


def seconds(timestamp: Timestamp) -> float:
    """The inverse of `moment`."""
    return (timestamp.ToMilliseconds() - _BEGIN_MS) / 1000


def detection(
    face: Vector | None = None,
    *,
    at: float = 0.0,
    camera: str = "Camera_01",
    object_id: str = "1",
    alignment: common_pb2.Alignment.ValueType = common_pb2.ALIGNMENT_UNALIGNED,
) -> common_pb2.Detection:
    """As in tests.support, but recent enough to be kept."""
    message = detection_at_start(face, at=at, camera=camera, object_id=object_id, alignment=alignment)
    message.detect_time.CopyFrom(moment(at))
    return message


class Client:
    """One channel to a server; `async with`."""

    def __init__(self, target: str) -> None:
        self._channel = connect(target, max_message_bytes=64 << 20)
        self.stub = history_pb2_grpc.HistoryServiceStub(self._channel)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def append(
        self,
        *detections: common_pb2.Detection,
        frames: Sequence[history_pb2.FrameUpload] = (),
        parent: str = STORE,
    ) -> history_pb2.AppendDetectionsResponse:
        """One batch on a stream of its own."""
        request = history_pb2.AppendDetectionsRequest(parent=parent, batch_id=7, detections=detections, frames=frames)
        (response,) = [response async for response in self.stream([request])]
        return response

    async def stream(
        self, requests: Sequence[history_pb2.AppendDetectionsRequest]
    ) -> AsyncIterator[history_pb2.AppendDetectionsResponse]:
        """All requests on one stream, without waiting in between."""
        async for response in self.stub.AppendDetections(iter(requests)):
            yield response

    async def appearances(self, **fields: object) -> list[history_pb2.Appearance]:
        """All appearances, by pages."""
        found: list[history_pb2.Appearance] = []
        request = history_pb2.ListAppearancesRequest(parent=STORE, page_size=1000, **fields)  # type: ignore[arg-type]
        while True:
            response = await self.stub.ListAppearances(request)
            found += response.appearances
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token
