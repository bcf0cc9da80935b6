"""Which frame an appearance gets when it is over, and how long frames are held for it."""

import base64
from collections.abc import AsyncIterator

import orjson
import pytest
from poi.v1 import common_pb2, history_pb2

from ingest_svc import evidence as evidence_module
from ingest_svc import exits as exits_module
from ingest_svc.evidence import Evidence, Shot
from ingest_svc.exits import Exits
from ingest_svc.rejections import Problem
from tests.ingest_svc.test_evidence import Clock, FakeHistory
from tests.support import turns

EXIT = history_pb2.FRAME_KIND_EXIT
DOOR = "stores/store-1/cameras/door"
SHELF = "stores/store-1/cameras/shelf"
BEGIN_MS = 1_795_000_000_000


def sight(seconds: float, camera: str = DOOR) -> common_pb2.Detection:
    message = common_pb2.Detection(camera=camera)
    message.detect_time.FromMilliseconds(BEGIN_MS + round(seconds * 1000))
    return message


def shot(seconds: float, camera: str = DOOR) -> Shot:
    return Shot(camera, BEGIN_MS + round(seconds * 1000), b"%f" % seconds)


class Scene:
    """Exits with a clock that a test sets, event time and arrival the same unless said."""

    def __init__(self) -> None:
        self.clock, self.history, self.asked = Clock(), FakeHistory(), list[str]()
        self.problems: list[Problem] = []
        self.evidence = Evidence(
            "store-1",
            self.history,  # type: ignore[arg-type]  # all of the stream that it uses
            ask=lambda camera_id: not self.asked.append(camera_id),  # type: ignore[func-returns-value]
            wait_seconds=5,
            on_problem=lambda _, problem: self.problems.append(problem),
            clock=self.clock,
        )
        self.exits = Exits(self.evidence, gap_seconds=10, every_seconds=2, clock=self.clock)
        self.began = self.clock.now

    def at(self, seconds: float) -> None:
        self.clock.now = self.began + seconds

    async def stored(self) -> list[tuple[float, list[str]]]:
        """(time of the frame, its appearances) of what has been handed to history, in order."""
        await turns()
        assert all(frame.kind == EXIT for frame in self.history.frames)
        return [
            ((frame.capture_time.ToMilliseconds() - BEGIN_MS) / 1000, sorted(frame.appearances))
            for frame in self.history.frames
        ]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    one = Scene()
    yield one
    await one.evidence.close()


async def test_the_newest_frame_before_the_last_sight_is_the_exit(scene: Scene) -> None:
    scene.exits.seen(sight(0), "gone")
    scene.exits.seen(sight(0), "stays")
    for second in range(1, 14):
        scene.at(second)
        if second <= 5:
            scene.exits.seen(sight(second), "gone")
        scene.exits.seen(sight(second), "stays")
        scene.exits.received(shot(second - 0.3))
        scene.exits.sweep()
        assert sum(map(len, scene.exits._shots.values())) <= 2, "the newest, and one for who may have left"
    assert await scene.stored() == []
    scene.at(15.1)
    scene.exits.sweep()

    # The frame of 4.7 s, not that of 5.7, when the person was gone.
    assert await scene.stored() == [(4.7, ["gone"])]
    scene.at(24)
    scene.exits.sweep()
    assert await scene.stored() == [(4.7, ["gone"]), (12.7, ["stays"])]
    assert not scene.exits._shots


async def test_a_frame_just_after_the_last_sight_will_do(scene: Scene) -> None:
    scene.exits.seen(sight(0), "a")
    scene.exits.received(shot(0.4))
    scene.exits.received(shot(0.6))
    scene.at(11)
    scene.exits.sweep()
    assert await scene.stored() == [(0.4, ["a"])]


async def test_frames_of_other_times_and_cameras_show_somebody_else(scene: Scene) -> None:
    scene.exits.seen(sight(100), "a")
    scene.exits.seen(sight(100, SHELF), "b")
    scene.exits.received(shot(98))
    scene.exits.received(shot(103))
    scene.exits.received(shot(100, SHELF))
    scene.at(11)
    scene.exits.sweep()
    assert await scene.stored() == [(100, ["b"])]


async def test_those_who_leave_together_share_a_frame(scene: Scene) -> None:
    for one in "abc":
        scene.exits.seen(sight(0), one)
    scene.exits.received(shot(0))
    scene.at(11)
    scene.exits.sweep()
    assert await scene.stored() == [(0, ["a", "b", "c"])]


async def test_a_frame_that_shows_the_appearance_already_is_not_sent_again(scene: Scene) -> None:
    scene.evidence.want(DOOR, "a", history_pb2.FRAME_KIND_ENTRY)
    scene.exits.seen(sight(0), "a")
    image = base64.b64encode(b"jpeg").decode()
    scene.evidence.received("door", orjson.dumps({"timestamp": BEGIN_MS / 1000, "image": image}))
    await scene.history.arrived.wait()
    scene.at(11)
    scene.exits.sweep()
    await turns()
    assert [frame.kind for frame in scene.history.frames] == [history_pb2.FRAME_KIND_ENTRY]


async def test_a_frame_that_overtakes_its_detection_is_kept_for_it(scene: Scene) -> None:
    scene.exits.seen(sight(0), "a")
    scene.exits.received(shot(0))
    scene.exits.received(shot(2))
    scene.exits.sweep()
    scene.at(1)
    scene.exits.seen(sight(2), "a")
    scene.at(12)
    scene.exits.sweep()
    assert await scene.stored() == [(2, ["a"])]


async def test_cameras_are_asked_while_somebody_is_in_view(scene: Scene) -> None:
    image = base64.b64encode(b"jpeg").decode()
    for second in range(21):
        scene.at(second)
        if second <= 8:
            scene.exits.seen(sight(second), "a")
        scene.exits.sweep()
        if len(scene.asked) and second % 2 == 0:
            scene.evidence.received("door", orjson.dumps({"timestamp": (BEGIN_MS / 1000) + second, "image": image}))
    assert scene.asked == ["door"] * 6, "at 0, 2, 4, 6 and 8 s, and once when it was not sure yet that all had gone"
    assert scene.problems == []


async def test_a_camera_that_does_not_answer_is_not_pressed(scene: Scene) -> None:
    for second in range(10):
        scene.at(second)
        scene.exits.seen(sight(second), "a")
        scene.exits.sweep()
    assert scene.asked == ["door"] * 2, "again after 5 s"


async def test_memory_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits_module, "_MOST_OPEN", 100)
    monkeypatch.setattr(exits_module, "_MOST_HELD_BYTES", 1000)
    monkeypatch.setattr(evidence_module, "_MOST_WAITING_BYTES", 150)
    for number in range(1000):
        scene.exits.seen(sight(0, f"stores/store-1/cameras/{number}"), f"a{number}")
    for number in range(1000):
        scene.exits.received(Shot(f"stores/store-1/cameras/{number}", BEGIN_MS, bytes(100)))
    assert len(scene.exits._open) == 100
    assert sum(map(len, scene.exits._shots.values())) == 10

    shots = [Shot(DOOR, BEGIN_MS, bytes(100)) for _ in range(3)]
    scene.evidence.store(shots[0], EXIT, ["a"])
    scene.evidence.store(shots[1], EXIT, ["a"])
    await turns()
    scene.evidence.store(shots[2], EXIT, ["a"])
    assert len(await scene.stored()) == 2, "the second found the first still waiting"
