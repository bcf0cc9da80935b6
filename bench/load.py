"""The load generator: a process of its own, so that its work neither delays the client nor counts as the mesh's."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from clients.replay import CameraTraffic, Message, People, Replay

CAMERAS = 10
DETECTIONS_A_TRACK = 50
"""How often a person is seen on the way past a camera: 5 s at 10 frames a second."""
ENROLLED_SHARE = 0.2
"""The share of the people coming by who are enrolled."""
PEOPLE_SEED = 0
_CONFIRM_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """Traffic to publish."""

    mqtt_url: str
    faces: int
    """In each message."""
    rate: float
    """Messages a second from all cameras together."""
    seconds: float
    enrolled: int
    """How many people are enrolled; at most 64 of them come by."""
    number: int
    """Distinguishes the people and tracks of one job from those of another."""
    unpaced: bool = False
    """Publish as fast as the broker takes it, in place of at the rate."""

    @property
    def messages(self) -> int:
        """How many messages that is."""
        return max(round(self.seconds * self.rate / CAMERAS), 1) * CAMERAS


@dataclass(frozen=True)
class Played:
    """What was published."""

    published_at: dict[tuple[str, int], float]
    """(camera id, event time in ms) -> monotonic seconds, the same clock in all processes of a machine."""
    tracks: int
    enrolled_tracks: int
    payload_bytes: float
    """Mean size of a message."""
    max_late_s: float
    """How late the latest message was published: the generator itself did not keep up where this is not small."""
    cpu_seconds: float

    @property
    def times(self) -> list[float]:
        """When the messages were published, ascending, monotonic seconds."""
        return sorted(self.published_at.values())


class _Measured:
    """A traffic with its bytes counted."""

    def __init__(self, traffic: CameraTraffic) -> None:
        self._traffic = traffic
        self.size = self.count = 0

    @property
    def duration_ms(self) -> float | None:
        return self._traffic.duration_ms

    def messages(self, start_ms: int) -> Iterator[Message]:
        for message in self._traffic.messages(start_ms):
            self.size += len(message.payload)
            self.count += 1
            yield message


def play(job: Job) -> Played:
    """Publishes the job's traffic at its rate and waits until the broker has confirmed all of it.

    Raises:
        ConnectionError, TimeoutError: of `Replay.run`.
    """
    per_camera = job.rate / CAMERAS
    cameras = CameraTraffic(
        cameras=CAMERAS,
        faces=job.faces,
        rate=per_camera,
        seconds=job.seconds,
        people=People(PEOPLE_SEED),
        enrolled=job.enrolled,
        enrolled_share=ENROLLED_SHARE,
        track_seconds=DETECTIONS_A_TRACK / per_camera,
        bodies=False,
        seed=job.number,
        first_object_id=1 + job.number * 1_000_000,
    )
    traffic = _Measured(cameras)
    replay = Replay(
        traffic,
        job.mqtt_url,
        speed=float("inf") if job.unpaced else 1.0,
        repeat_seconds=0.0,  # this broker is not killed
        confirm_timeout_s=_CONFIRM_SECONDS,
    )
    before = time.process_time()
    progress = replay.run()
    return Played(
        published_at=replay.published_at,
        tracks=len(cameras.tracks),
        enrolled_tracks=sum(track.enrolled for track in cameras.tracks),
        payload_bytes=traffic.size / traffic.count,
        max_late_s=0.0 if job.unpaced else progress.max_lag_s,
        cpu_seconds=time.process_time() - before,
    )


class Generator:
    """The process that plays. Use as a context manager."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit gRPC's threads
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=context)

    async def play(self, job: Job) -> Played:
        """`play` in the other process."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, play, job)

    async def pid(self) -> int:
        """The process, started where it was not."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, os.getpid)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
