"""The history without a server around it, where a moment must be met exactly."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from poi.v1 import common_pb2, history_pb2

from history_svc.history import Appending
from history_svc.settings import Settings
from history_svc.store import History
from tests.history_svc.client import STORE, detection
from tests.support import unit


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    one = History.open(Settings(data_dir=tmp_path / "data"))
    yield one
    await one.close()


def _append(history: History, *detections: common_pb2.Detection) -> Appending:
    return history.append(history.read(history_pb2.AppendDetectionsRequest(parent=STORE, detections=detections)))


async def test_a_stream_that_is_cancelled_harms_no_other_in_its_group(history: History) -> None:
    """Cancelling the wait for a shared write must neither lose its batch nor leave the others without an answer."""
    gone, stays = _append(history, detection(unit(1), at=0)), _append(history, detection(unit(1), at=1))
    assert gone.detections is not None
    assert stays.detections is not None

    async def wait() -> None:
        assert gone.detections is not None
        await gone.detections

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiter.cancel()
    writer = asyncio.create_task(history.write())
    answer = await asyncio.wait_for(stays.detections, 60)

    assert not writer.done()
    assert answer == [bytes.fromhex(detection(at=0).detection_id)]
    assert history.book.detection_count == 2
    writer.cancel()
    await asyncio.wait([writer, waiter])


async def test_batches_that_wait_together_are_written_as_one(history: History, tmp_path: Path) -> None:
    waiting = [_append(history, detection(unit(1), at=at)).detections for at in range(50)]
    writer = asyncio.create_task(history.write())

    answers = [await one for one in waiting if one is not None]

    assert answers == [[bytes.fromhex(detection(at=0).detection_id)]] * 50
    (path,) = (tmp_path / "data").glob("detections-*.log")
    assert path.read_bytes().count(b"\xd5POI") == 2, "the header and one record"
    writer.cancel()
    await asyncio.wait([writer])
