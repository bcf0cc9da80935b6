"""Asks cameras for a frame when it is wanted as evidence, and hands it to history with the appearances it shows.

A camera is asked once at a time, by `getimage` on `{root}/cmd/camera/{id}`; it answers on `{root}/image/camera/{id}`
with `{"timestamp", "image": base64 JPEG}`. Evidence is wanted, not promised: a camera that does not answer holds
nobody up.
"""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from poi.v1 import history_pb2

from ingest_svc import parsing
from ingest_svc.detections import HistoryStream
from ingest_svc.rejections import Problem, Refused
from mesh import errors, names

_log = structlog.get_logger(__name__)

_MOST_WANTING = 1000
_WEIGHTIEST = (history_pb2.FRAME_KIND_BEST, history_pb2.FRAME_KIND_ENTRY, history_pb2.FRAME_KIND_MATCH)
"""Of several reasons for one frame the last of these is kept."""
_MOST_IMAGE_BYTES = 6 << 20  # leaves room for the rest of a message of 8 MiB


@dataclass(slots=True)
class _Wanted:
    asked: float
    kind: history_pb2.FrameKind.ValueType
    appearances: dict[str, None] = field(default_factory=dict)


class Evidence:
    """Frames wanted and received."""

    def __init__(
        self,
        store: str,
        history: HistoryStream,
        *,
        ask: Callable[[str], bool],
        wait_seconds: float,
        on_problem: Callable[[str, Problem], None],
    ) -> None:
        """`ask(camera_id)` sends the command; `on_problem(camera, ...)` is told of frames that were refused."""
        self._store = store
        self._parent = names.store(store)
        self._history = history
        self._ask = ask
        self._wait = wait_seconds
        self._on_problem = on_problem
        self._wanted: dict[str, _Wanted] = {}
        self._storing: set[asyncio.Task[None]] = set()
        self.frames = 0
        """Frames that were stored."""

    def want(self, camera: str, appearance: str, kind: history_pb2.FrameKind.ValueType) -> None:
        """A frame that shows this appearance is wanted, as soon as the camera can send one."""
        camera_id = names.parse_camera(camera)[1]
        now = time.monotonic()
        wanted = self._wanted.get(camera_id)
        if wanted is None or now - wanted.asked > self._wait:
            wanted = self._wanted[camera_id] = _Wanted(now, kind)
            if not self._ask(camera_id):
                del self._wanted[camera_id]
                return
        if len(wanted.appearances) < _MOST_WANTING:
            wanted.appearances[appearance] = None
        wanted.kind = max(wanted.kind, kind, key=_WEIGHTIEST.index)

    def received(self, camera_id: str, payload: bytes) -> None:
        """A camera sent a frame. One that nobody asked for is left alone. Raises `Refused`."""
        wanted = self._wanted.pop(camera_id, None)
        if wanted is None:
            return
        content = parsing.load_object(payload)
        image = content.get("image")
        if not isinstance(image, str):
            raise Refused("BAD_IMAGE", "image", "must be a base64 string")
        try:
            data = binascii.a2b_base64(image, strict_mode=True)
        except (binascii.Error, ValueError):
            raise Refused("BAD_IMAGE", "image", "is not base64") from None
        if len(data) > _MOST_IMAGE_BYTES:
            raise Refused("TOO_LARGE", "image", f"{len(data)} bytes, {_MOST_IMAGE_BYTES} at most")
        frame = history_pb2.FrameUpload(
            camera=names.camera(self._store, camera_id),
            kind=wanted.kind,
            image=data,
            appearances=list(wanted.appearances),
        )
        frame.capture_time.FromMilliseconds(parsing.time_ms(content.get("timestamp"), "timestamp"))
        task = asyncio.get_running_loop().create_task(self._store_frame(frame))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def close(self) -> None:
        """Give up the frames that are under way."""
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    async def _store_frame(self, frame: history_pb2.FrameUpload) -> None:
        try:
            response = await self._history.send(
                history_pb2.AppendDetectionsRequest(parent=self._parent, frames=[frame])
            )
        except errors.MeshError as error:
            self._on_problem(frame.camera, Problem(error.reason, "image", str(error)))
            return
        for item in response.frame_errors:
            refused = errors.from_status(item.status)
            self._on_problem(frame.camera, Problem(refused.reason, "image", str(refused)))
        self.frames += len(response.frames) - len(response.frame_errors)
