"""A person comes, shows their face, and goes: the first, the best and the last view of them are kept."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2
import numpy as np
import orjson
import pytest
from poi.v1 import history_pb2

from clients.replay import Publisher
from tests.e2e.client import Client, until
from tests.e2e.store import Store
from tests.e2e.story import Window, publish
from tests.support import unit

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

CAMERA = "evidence"
VECTOR = base64.b64encode(unit(815).astype("<f4").tobytes()).decode()
KINDS = [history_pb2.FRAME_KIND_ENTRY, history_pb2.FRAME_KIND_BEST, history_pb2.FRAME_KIND_EXIT]


def message(timestamp: float, face_side: float) -> bytes:
    box = {"x": 10, "y": 10, "width": face_side, "height": face_side}
    face = {"confidence": 0.9, "bounding_box_px": box, "metadata": {"reid": {"embedding_vector": VECTOR}}}
    person = {"id": 1, "confidence": 0.9, "bounding_box_px": box, "sub_objects": {"face": [face]}}
    return orjson.dumps({"timestamp": timestamp, "objects": {"person": [person]}})


def view(millisecond: int) -> bytes:
    """What the camera sees then: another picture for each moment."""
    picture = np.random.default_rng(millisecond).integers(0, 255, (90, 160, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", picture)[1])


@asynccontextmanager
async def camera(mqtt_url: str) -> AsyncIterator[None]:
    """Answers `getimage` with what it sees now."""
    publisher = Publisher(mqtt_url)
    await asyncio.to_thread(publisher.connect)

    def answer(_: str, __: bytes) -> None:
        now = round(time.time() * 1000)
        frame = {"timestamp": now / 1000, "image": base64.b64encode(view(now)).decode()}
        publisher.publish_once(f"scenescape/image/camera/{CAMERA}", orjson.dumps(frame))

    publisher.subscribe(f"scenescape/cmd/camera/{CAMERA}", answer)
    serving = asyncio.create_task(asyncio.to_thread(publisher.work, 240))
    try:
        yield
    finally:
        publisher.stop()
        await serving
        publisher.close()


async def test_entry_best_and_exit_of_an_appearance_are_kept(store: Store) -> None:
    window, topic = Window(int(time.time()) - 1), f"scenescape/data/camera/{CAMERA}"
    async with Client(store.mesh, store.store) as client:
        kinds: list[int] = []

        async def left() -> bool:
            (found,) = await client.appearances(window.interval, CAMERA)
            kinds[:] = [frame.kind for frame in found.frames]
            return history_pb2.FRAME_KIND_EXIT in kinds

        async with camera(store.mesh.mqtt_url):
            better = 0
            for number in range(36):
                now = time.time()
                if number == 26:
                    better = round(now * 1000)
                shown = message(now, 40 if number < 26 else 80)
                await asyncio.to_thread(publish, store.mesh.mqtt_url, [(topic, shown)])
                await asyncio.sleep(0.1)
            await until(left, "the exit frame is there")

        (found,) = await client.appearances(window.interval, CAMERA)
        frames = {frame.kind: frame for frame in found.frames}  # the last of each kind
        assert set(frames) == set(KINDS)
        entry, best, leaving = (frames[kind].capture_time.ToMilliseconds() for kind in KINDS)
        begin_ms, end_ms = found.start_time.ToMilliseconds(), found.end_time.ToMilliseconds()
        assert begin_ms <= entry < better, "of the face that came first"
        assert better <= best, "of the face that was twice as large"
        assert better <= leaving <= end_ms + 500
        for frame in found.frames:
            parts = [part async for part in client.history.GetFrame(history_pb2.GetFrameRequest(name=frame.name))]
            assert b"".join(part.data for part in parts) == view(frame.capture_time.ToMilliseconds())
