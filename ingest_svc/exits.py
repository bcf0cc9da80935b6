"""The exit frame of an appearance: what the camera saw last while the person was there.

That somebody has left is known only when the gap is over, and then it is too late to ask. So cameras with people in
view are asked for a frame every few seconds; in memory stay the newest one of each camera and those that show somebody
who may have left. When an appearance is over, the newest frame that was taken before its last sight is its exit frame.

What an appearance looked like last is known in memory only: one that is open when ingest ends gets no exit frame from
before that. Its entry and best frames are stored by then.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from poi.v1 import common_pb2, history_pb2

from ingest_svc.evidence import Evidence, Shot

_TOLERANCE_MS: Final = 500
"""Of a frame's time against a sight's: cameras answer with the frame they have next."""
_SWEEP_SECONDS: Final = 1.0
_MOST_OPEN: Final = 65_536
_MOST_HELD_BYTES: Final = 256 << 20
"""About 1,000 frames of a full HD camera."""


@dataclass(slots=True)
class _Open:
    camera: str
    start_ms: int
    end_ms: int
    seen: float
    """When a detection arrived last, by our clock."""

    def shows(self, shot: Shot) -> bool:
        return self.start_ms - _TOLERANCE_MS <= shot.time_ms <= self.end_ms + _TOLERANCE_MS


class Exits:
    """See the module. `run` must be running."""

    def __init__(
        self,
        evidence: Evidence,
        *,
        gap_seconds: float,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """An appearance is over when it was not seen for `gap_seconds`; a camera is asked all `every_seconds`."""
        self._evidence = evidence
        self._gap, self._every = gap_seconds, every_seconds
        self._clock = clock
        self._open: OrderedDict[str, _Open] = OrderedDict()  # appearance -> ..., longest unseen first
        self._in_view: dict[str, float] = {}  # camera -> when somebody was seen
        self._shots: dict[str, list[Shot]] = {}  # camera -> oldest first
        evidence.on_shot = self.received

    def seen(self, detection: common_pb2.Detection, appearance: str) -> None:
        """A detection of this appearance is stored. On the way of every detection: constant time, no timer."""
        now = self._clock()
        moment = detection.detect_time
        time_ms = moment.seconds * 1000 + moment.nanos // 1_000_000
        one = self._open.get(appearance)
        if one is None:
            camera = detection.camera
            self._open[appearance] = _Open(camera, time_ms, time_ms, now)
            self._in_view[camera] = now
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return
        one.seen = self._in_view[one.camera] = now
        if time_ms > one.end_ms:
            one.end_ms = time_ms
        elif time_ms < one.start_ms:
            one.start_ms = time_ms
        self._open.move_to_end(appearance)

    def received(self, shot: Shot) -> None:
        """A camera's frame, asked for here or as other evidence."""
        shots = self._shots.setdefault(shot.camera, [])
        held = sum(len(one.image) for those in self._shots.values() for one in those)
        if held + len(shot.image) > _MOST_HELD_BYTES:
            return
        shots.append(shot)
        shots.sort(key=lambda one: one.time_ms)

    def shown(self, times: Collection[tuple[str, int, int]]) -> int:
        """How many frames are held that these cameras took at these times (camera, from, to in ms)."""
        return sum(_taken(shot, times) for shots in self._shots.values() for shot in shots)

    def forget(self, appearances: Collection[str], times: Collection[tuple[str, int, int]]) -> None:
        """These appearances get no exit frame; frames of these times are kept for nobody."""
        for appearance in appearances:
            self._open.pop(appearance, None)
        for camera, shots in self._shots.items():
            self._shots[camera] = [shot for shot in shots if not _taken(shot, times)]

    async def run(self) -> None:
        """Asks cameras and stores exit frames, for ever."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._every))
            self.sweep()

    def sweep(self) -> None:
        """One round of `run`."""
        now = self._clock()
        self._end(now)
        self._forget()
        for camera, seen in list(self._in_view.items()):
            if now - seen > self._every:
                del self._in_view[camera]
            else:
                self._evidence.look(camera, self._every)

    def _end(self, now: float) -> None:
        ended: dict[int, tuple[Shot, list[str]]] = {}
        while self._open:
            appearance, one = next(iter(self._open.items()))
            if now - one.seen <= self._gap:
                break
            del self._open[appearance]
            shot = self._last(one)
            if shot is not None and appearance not in shot.appearances:
                ended.setdefault(id(shot), (shot, []))[1].append(appearance)
        for shot, appearances in ended.values():
            self._evidence.store(shot, history_pb2.FRAME_KIND_EXIT, appearances)

    def _last(self, one: _Open) -> Shot | None:
        return next((shot for shot in reversed(self._shots.get(one.camera, ())) if one.shows(shot)), None)

    def _forget(self) -> None:
        """Keeps of each camera what an open appearance would get now, and the newest while one is open."""
        cameras = {one.camera for one in self._open.values()}
        crowded = {camera for camera in cameras if len(self._shots.get(camera, ())) > 1}
        wanted = {id(self._last(one)) for one in self._open.values() if one.camera in crowded}
        for camera, shots in list(self._shots.items()):
            if camera not in cameras:
                del self._shots[camera]
            elif camera in crowded:
                self._shots[camera] = [one for one in shots[:-1] if id(one) in wanted] + shots[-1:]


def _taken(shot: Shot, times: Collection[tuple[str, int, int]]) -> bool:
    return any(shot.camera == camera and start <= shot.time_ms <= end for camera, start, end in times)
