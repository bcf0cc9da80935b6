"""What the demo leaves behind can be opened."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from poi.v1 import common_pb2, history_pb2

from demo import timeline
from demo.keep import keep
from demo.material import Person
from demo.steps import Steps
from tests.conftest import StartMesh
from tests.history_svc.client import STORE, Client, detection, moment
from tests.history_svc.test_frames import jpeg, upload
from tests.support import embedding, unit

WOMAN = Person("woman", "Woman", common_pb2.SEVERITY_HIGH, embeddings=(embedding(unit(1)),))


def step(place: str, start: float, end: float) -> history_pb2.JourneyStep:
    made = history_pb2.JourneyStep(start_time=moment(start), end_time=moment(end), similarity=0.7)
    setattr(made, "camera" if "/cameras/" in place else "zone", place)
    return made


def count(picture: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", colour: str) -> int:
    """Pixels of a colour like #2a6fb0."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return int((picture == (blue, green, red)).all(axis=2).sum())


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def read(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(np.uint8)


def test_a_timeline_has_a_bar_for_each_stay(tmp_path: Path) -> None:
    camera, zone = f"{STORE}/cameras/door", f"{STORE}/scenes/shop/zones/entrance"
    drawn = []
    for number, steps in enumerate(
        [
            [step(camera, 0, 10), step(zone, 0, 60)],
            [step(camera, 0, 20), step(zone, 0, 60)],
            [step(zone, 0, 60)],
        ]
    ):
        timeline.draw("Woman", steps, [], tmp_path / f"{number}.png")
        picture = read(tmp_path / f"{number}.png")
        drawn.append((count(picture, timeline.CAMERA), count(picture, timeline.ZONE)))

    assert drawn[1][0] == pytest.approx(2 * drawn[0][0], rel=0.05), "twice as long"
    assert drawn[0][1] == pytest.approx(drawn[1][1], rel=0.05)
    assert drawn[2][0] == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a frame of the last run."""
    made = tmp_path / "demo"
    made.mkdir()
    (made / "of-the-last-run.jpg").write_bytes(b"old")
    return made


async def test_frames_and_timeline_are_files_and_take_the_place_of_old_ones(mesh: StartMesh, directory: Path) -> None:
    running = mesh(services=["history"])
    async with Client(running.target("history")) as client, Steps(running, "store-1") as steps:
        answer = await client.append(detection(unit(1), at=0), detection(unit(1), at=5))
        frames = [upload(jpeg(seed), answer.stored[0].appearance, at=at) for seed, at in ((1, 4), (2, 1))]
        await client.append(frames=frames)
        found, way = await steps.search(WOMAN, None), await steps.journey(WOMAN, None)

        saved = await keep(steps, "Woman", found.hits, way, directory=directory)

    assert names_in(directory) == sorted(path.name for path in saved)
    first, second, picture = saved
    assert [first.read_bytes(), second.read_bytes()] == [jpeg(2), jpeg(1)], "oldest first"
    assert first.name.startswith("Camera_01-")
    assert "-entry-" in first.name
    assert count(read(picture), timeline.CAMERA) > 1000


async def test_nobody_found_leaves_nothing(mesh: StartMesh, directory: Path) -> None:
    running = mesh(services=["history"])
    async with Steps(running, "store-1") as steps:
        saved = await keep(steps, "Woman", [], await steps.journey(WOMAN, None), directory=directory)

    assert saved == []
    assert names_in(directory) == []
