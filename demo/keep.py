"""What the demo leaves behind of its search: evidence frames as JPEG files, and a picture of the person's way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from poi.v1 import history_pb2

from demo import timeline
from demo.steps import Steps

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "build" / "demo"
_TIMELINE: Final = "timeline.png"
PHOTO: Final = "photo.jpg"
"""That of the enrolment, to try other commands with."""


async def keep(
    steps: Steps,
    title: str,
    hits: Sequence[history_pb2.AppearanceHit],
    way: history_pb2.GetJourneyResponse,
    photo: bytes | None = None,
    directory: Path = DIRECTORY,
) -> list[Path]:
    """Saves the frames of all hits, the photo, and the timeline where there is one to draw; takes the place of the last
    run's.

    Returns the files, the frames first, oldest first.
    """
    frames = {frame.name: frame for hit in hits for frame in hit.appearance.frames}
    in_order = sorted(frames.values(), key=lambda frame: (frame.capture_time.ToNanoseconds(), frame.name))
    images = {file_name(frame): await steps.frame(frame.name) for frame in in_order}
    if photo is not None:
        images[PHOTO] = photo
    return await asyncio.to_thread(_write, directory, title, images, in_order, way.steps)


def file_name(frame: history_pb2.Frame) -> str:
    """For example `Camera_01-031205.500-entry-1f0c.jpg`, with the time in UTC."""
    camera = frame.camera.rpartition("/")[2].replace(":", "_")
    clock = frame.capture_time.ToDatetime().strftime("%H%M%S.%f")[:-3]
    kind = history_pb2.FrameKind.Name(frame.kind).removeprefix("FRAME_KIND_").lower()
    return f"{camera}-{clock}-{kind}-{frame.name[-4:]}.jpg"


def _write(
    directory: Path,
    title: str,
    images: dict[str, bytes],
    frames: Sequence[history_pb2.Frame],
    steps: Sequence[history_pb2.JourneyStep],
) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("*.jpg"), directory / _TIMELINE):
        old.unlink(missing_ok=True)
    written = []
    for name, image in images.items():
        (directory / name).write_bytes(image)
        written.append(directory / name)
    if steps:
        timeline.draw(title, steps, frames, directory / _TIMELINE)
        written.append(directory / _TIMELINE)
    return written
