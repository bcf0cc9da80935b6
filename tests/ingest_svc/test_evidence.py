"""Which frames are asked for, and what they are stored as."""

import asyncio
import base64
from typing import Any

import orjson
import pytest
from poi.v1 import common_pb2, history_pb2

from ingest_svc.best_faces import BestFaces
from ingest_svc.evidence import Evidence
from ingest_svc.rejections import Problem
from tests.support import detection, unit

ENTRY, MATCH, BEST = history_pb2.FRAME_KIND_ENTRY, history_pb2.FRAME_KIND_MATCH, history_pb2.FRAME_KIND_BEST
CAMERA = "stores/store-1/cameras/door"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def face(side: float, confidence: float = 1.0) -> common_pb2.Detection:
    """A detection with a face of so many pixels; without one for 0."""
    message = detection(unit(1) if side else None)
    if side:
        message.face_box.CopyFrom(common_pb2.BoundingBox(x=1, y=1, width=side, height=side))
        message.face_confidence = confidence
    return message


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def best(clock: Clock) -> BestFaces:
    return BestFaces(2.0, clock)


def test_a_clearly_better_face_is_worth_a_frame(best: BestFaces, clock: Clock) -> None:
    best.began("a", face(40))
    clock.now += 10

    assert not best.better("a", face(40))
    assert not best.better("a", face(50))
    assert not best.better("a", face(60, confidence=0.8)), "larger, but less sure"
    assert not best.better("a", face(0))
    assert best.better("a", face(51))
    clock.now += 10
    assert not best.better("a", face(51))
    assert best.better("a", face(65))


def test_the_first_face_of_who_came_without_one_is_worth_a_frame(best: BestFaces, clock: Clock) -> None:
    best.began("a", face(0))
    clock.now += 10

    assert not best.better("a", face(0))
    assert best.better("a", face(20))


def test_better_faces_are_not_asked_for_all_the_time(best: BestFaces, clock: Clock) -> None:
    best.began("a", face(40))
    clock.now += 1.9
    assert not best.better("a", face(80))
    clock.now += 0.1
    assert best.better("a", face(80))
    clock.now += 1
    assert not best.better("a", face(160))
    best.began("b", face(40))
    clock.now += 2
    assert best.better("b", face(80)), "each appearance by itself"


def test_an_appearance_from_before_a_restart_is_worth_one_frame(best: BestFaces) -> None:
    assert best.better("a", face(40))
    assert not best.better("a", face(80))


class FakeHistory:
    """Takes frames."""

    def __init__(self) -> None:
        self.frames: list[history_pb2.FrameUpload] = []
        self.arrived = asyncio.Event()

    async def send(self, request: history_pb2.AppendDetectionsRequest) -> history_pb2.AppendDetectionsResponse:
        self.frames += request.frames
        self.arrived.set()
        return history_pb2.AppendDetectionsResponse(frames=["stores/store-1/frames/f"] * len(request.frames))


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ((BEST,), BEST),
        ((ENTRY,), ENTRY),
        ((BEST, ENTRY), ENTRY),
        ((ENTRY, BEST), ENTRY),
        ((BEST, MATCH, ENTRY), MATCH),
    ],
)
async def test_one_frame_serves_all_that_want_one(wanted: tuple[Any, ...], kept: int) -> None:
    """The camera is asked once, and the weightiest reason is kept."""
    history, asked = FakeHistory(), list[str]()
    problems: list[Problem] = []

    def ask(camera_id: str) -> bool:
        asked.append(camera_id)
        return True

    evidence = Evidence(
        "store-1",
        history,  # type: ignore[arg-type]  # all of the stream that it uses
        ask=ask,
        wait_seconds=60,
        on_problem=lambda _, problem: problems.append(problem),
    )
    for number, kind in enumerate(wanted):
        evidence.want(CAMERA, f"a{number}", kind)
    image = base64.b64encode(b"jpeg").decode()
    evidence.received("door", orjson.dumps({"timestamp": "2026-11-20T09:00:00Z", "image": image}))
    await history.arrived.wait()

    assert asked == ["door"]
    (frame,) = history.frames
    assert frame.kind == kept
    assert list(frame.appearances) == [f"a{number}" for number in range(len(wanted))]
    assert problems == []
    evidence.want(CAMERA, "next", BEST)
    assert asked == ["door", "door"]
    await evidence.close()


async def test_cameras_that_never_answer_do_not_fill_the_memory() -> None:
    """Anybody who may publish can make up cameras; those that were asked last still answer."""
    history = FakeHistory()
    evidence = Evidence(
        "store-1",
        history,  # type: ignore[arg-type]  # all of the stream that it uses
        ask=lambda _: True,
        wait_seconds=60,
        on_problem=lambda camera, problem: None,
    )
    for number in range(10_002):
        evidence.want(f"stores/store-1/cameras/c{number}", f"a{number}", ENTRY)
    message = orjson.dumps({"timestamp": "2026-11-20T09:00:00Z", "image": base64.b64encode(b"jpeg").decode()})
    for number in range(10_002):
        evidence.received(f"c{number}", message)
        await asyncio.sleep(0)

    assert len(history.frames) == 10_000
    assert history.frames[-1].camera == "stores/store-1/cameras/c10001"
    await evidence.close()
