"""Frames that cameras send when asked: what is handed on is what history takes, and pictures are made of it."""

from __future__ import annotations

import asyncio
import base64

import orjson
from poi.v1 import history_pb2

from alert_svc.evidence.picture import Subject, Undecodable, compose
from tests.fuzz.json_mutator import JsonMutator
from tests.fuzz.street import PARENT, Street
from tests.fuzz.target import Target
from tests.fuzz.targets.images import FILES

_CAMERA = "Camera_01"


def make() -> Target:
    """Each input is what the camera answers with."""
    street, loop = Street(), asyncio.new_event_loop()

    async def answer(payload: bytes) -> None:
        street.evidence.want(
            f"{PARENT}/cameras/{_CAMERA}", f"{PARENT}/appearances/{'0' * 32}", history_pb2.FRAME_KIND_MATCH
        )
        street.take(street.topics.image + _CAMERA, payload)
        street.take(street.topics.image + "nobody asked", payload)
        await asyncio.gather(*street.evidence._storing)

    def test(data: bytes) -> None:
        street.frames.clear()
        loop.run_until_complete(answer(data))
        for frame in street.frames:
            try:
                compose(Subject(frame.image, "camera"), None)
            except Undecodable:
                continue

    images = [base64.b64encode(file).decode() for file in FILES]
    messages = [
        {"timestamp": time, "image": image} for time in (1763629200.5, "2026-11-20T09:00:00Z") for image in images
    ]
    return Target(test, [orjson.dumps(each) for each in messages], JsonMutator(("timestamp", "image", "id"), images))
