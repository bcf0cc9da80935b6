"""Asks cameras for a frame when it is wanted as evidence, and hands it to history with the appearances it shows.

A camera is asked once at a time, by `getimage` on `{root}/cmd/camera/{id}`; it answers on `{root}/image/camera/{id}`
with `{"timestamp", "image": base64 JPEG}`. Evidence is wanted, not promised: a camera that does not answer holds
nobody up, nor does a history that has no room for frames.
"""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import prometheus_client
from poi.v1 import history_pb2

from ingest_svc import parsing
from ingest_svc.detections import HistoryStream
from ingest_svc.rejections import Problem, Refused
from mesh import errors, names

_DROPPED = prometheus_client.Counter("poi_ingest_dropped_frames", "Frames given up as history was too far behind.")

_MOST_WANTING = 1000
_MOST_CAMERAS = 10_000
_WEIGHTIEST = (
    history_pb2.FRAME_KIND_UNSPECIFIED,
    history_pb2.FRAME_KIND_BEST,
    history_pb2.FRAME_KIND_ENTRY,
    history_pb2.FRAME_KIND_MATCH,
)
"""Of several reasons for one frame the last of these is kept."""
_MOST_WAITING_BYTES = 64 << 20
"""Frames that wait for history; more are given up, so that its outage does not fill our memory."""
_MOST_IMAGE_BYTES = 6 << 20  # leaves room for the rest of a message of 8 MiB


@dataclass(slots=True)
class _Wanted:
    asked: float
    kind: history_pb2.FrameKind.ValueType = history_pb2.FRAME_KIND_UNSPECIFIED
    appearances: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Shot:
    """A frame as it came from a camera."""

    camera: str
    """`stores/{store}/cameras/{camera}`."""
    time_ms: int
    """The camera's time, in milliseconds since the epoch."""
    image: bytes
    """The JPEG."""
    appearances: set[str] = field(default_factory=set)
    """Those it is evidence of."""


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
        correct: Callable[[str, int], int] = lambda _, time_ms: time_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask(camera_id)` sends the command; `on_problem(camera, ...)` is told of frames that were refused.

        `correct(camera, time_ms)` says when a frame was taken by our clock.
        """
        self._store = store
        self._parent = names.store(store)
        self._history = history
        self._ask = ask
        self._wait = wait_seconds
        self._on_problem = on_problem
        self._correct = correct
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._wanted: dict[str, _Wanted] = {}
        self._waiting_bytes = 0
        self.on_shot: Callable[[Shot], None] | None = None
        """Hears of each frame that was asked for."""
        self._storing: set[asyncio.Task[None]] = set()
        self.frames = 0
        """Frames that were stored."""

    def want(self, camera: str, appearance: str, kind: history_pb2.FrameKind.ValueType) -> None:
        """A frame that shows this appearance is wanted, as soon as the camera can send one."""
        wanted = self._asked(camera)
        if wanted is None:
            return
        if len(wanted.appearances) < _MOST_WANTING:
            wanted.appearances[appearance] = None
        wanted.kind = max(wanted.kind, kind, key=_WEIGHTIEST.index)

    def look(self, camera: str, every_seconds: float) -> None:
        """A frame is wanted for `on_shot`, unless the camera was asked less than so long ago for whatever reason."""
        if self._clock() - self._asked_at.get(camera, -every_seconds) >= every_seconds:
            self._asked(camera)

    def store(self, shot: Shot, kind: history_pb2.FrameKind.ValueType, appearances: Iterable[str]) -> None:
        """Hand a frame to history as evidence of these appearances. Where it is there already, they are added."""
        if self._waiting_bytes + len(shot.image) > _MOST_WAITING_BYTES:
            _DROPPED.inc()
            return
        shown = list(appearances)
        shot.appearances.update(shown)
        frame = history_pb2.FrameUpload(camera=shot.camera, kind=kind, image=shot.image, appearances=shown)
        frame.capture_time.FromMilliseconds(shot.time_ms)
        self._waiting_bytes += len(shot.image)
        task = asyncio.get_running_loop().create_task(self._store_frame(frame))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

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
        time_ms = parsing.time_ms(content.get("timestamp"), "timestamp")
        camera = names.camera(self._store, camera_id)
        shot = Shot(camera, self._correct(camera, time_ms), data)
        if wanted.appearances:
            self.store(shot, wanted.kind, wanted.appearances)
        if self.on_shot is not None:
            self.on_shot(shot)

    def forget(self, appearances: Collection[str]) -> None:
        """No frame is wanted of these any more."""
        for wanted in self._wanted.values():
            for appearance in appearances:
                wanted.appearances.pop(appearance, None)

    async def close(self) -> None:
        """Give up the frames that are under way."""
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    def _asked(self, camera: str) -> _Wanted | None:
        """What is wanted of the camera, which is asked unless it has yet to answer; None when it cannot be asked."""
        camera_id = names.parse_camera(camera)[1]
        now = self._clock()
        wanted = self._wanted.get(camera_id)
        if wanted is None or now - wanted.asked > self._wait:
            if not self._ask(camera_id):
                return None
            # Topics come from the street, and no camera answers for one that was made up: memory stays bounded.
            self._wanted.pop(camera_id, None)
            if len(self._wanted) >= _MOST_CAMERAS:
                del self._wanted[next(iter(self._wanted))]  # asked longest ago
            if len(self._asked_at) >= _MOST_CAMERAS:
                self._asked_at.clear()
            wanted = self._wanted[camera_id] = _Wanted(now)
            self._asked_at[camera] = now
        return wanted

    async def _store_frame(self, frame: history_pb2.FrameUpload) -> None:
        try:
            response = await self._history.send(
                history_pb2.AppendDetectionsRequest(parent=self._parent, frames=[frame])
            )
        except errors.MeshError as error:
            self._on_problem(frame.camera, Problem(error.reason, "image", str(error)))
            return
        finally:
            self._waiting_bytes -= len(frame.image)
        for item in response.frame_errors:
            refused = errors.from_status(item.status)
            self._on_problem(frame.camera, Problem(refused.reason, "image", str(refused)))
        self.frames += len(response.frames) - len(response.frame_errors)
