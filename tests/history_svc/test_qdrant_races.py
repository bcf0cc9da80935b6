"""Several processes' worth of writers on one Qdrant whose writes fail at random, before or after they are done."""

import asyncio
import random
import uuid
from collections import Counter
from pathlib import Path

import pytest
from poi.v1 import common_pb2, history_pb2

from history_svc.frames import FrameStore
from history_svc.history import HistoryStore
from history_svc.qdrant.store import QdrantHistory
from history_svc.settings import Settings
from mesh.errors import Unavailable
from tests.history_svc.client import STORE, detection
from tests.history_svc.qdrant_grpc import QdrantServer
from tests.support import similar, unit

DETECTIONS = "poi-detections-face-reidentification-retail-0095"
WRITERS, TRACKS, SECONDS = 3, 3, 14


def a_second(second: int) -> list[common_pb2.Detection]:
    """Each track is seen twice; every fifth second is out of the gap, so that appearances end."""
    at = second + 20.0 * (second // 5)
    return [
        detection(similar(unit(1 + track), 0.9, 100 * second + track), at=at + half, object_id=str(track))
        for track in range(TRACKS)
        for half in (0.0, 0.5)
    ]


async def _append(history: QdrantHistory, batch: list[common_pb2.Detection]) -> dict[str, bytes]:
    """As ingest does: again until it is acknowledged."""
    request = history_pb2.AppendDetectionsRequest(parent=STORE, detections=batch)
    while True:
        appending = history.append(history.read(request))
        assert appending.detections is not None
        try:
            answers = await appending.detections
        except Unavailable:
            continue
        return {one.detection_id: answer for one, answer in zip(batch, answers, strict=True)}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost_and_nothing_is_counted_twice(seed: int, tmp_path: Path) -> None:
    """Seconds come out of order and to several writers at once; all of them get the same answers."""
    chance = random.Random(seed)
    qdrant = QdrantServer()
    settings = Settings(qdrant_url=qdrant.url, frames_url=f"file://{tmp_path}")
    writers: list[QdrantHistory] = [QdrantHistory.open(settings) for _ in range(WRITERS)]
    tasks = [asyncio.create_task(one.write()) for one in writers]
    qdrant.before_upsert = lambda request: chance.random() > 0.1
    qdrant.after_upsert = lambda request: chance.random() > 0.1
    answers: dict[str, bytes] = {}

    async def deliver(writer: QdrantHistory) -> None:
        seconds = [second for second in range(SECONDS) if chance.random() < 0.7]
        for start in range(0, len(seconds), 3):
            some = seconds[start : start + 3]
            chance.shuffle(some)
            for second in some:
                batch = a_second(second)
                chance.shuffle(batch)
                for key, answer in (await _append(writer, batch)).items():
                    assert answers.setdefault(key, answer) == answer, "the same appearance whoever is asked"

    await asyncio.gather(*map(deliver, writers))
    qdrant.before_upsert = qdrant.after_upsert = None
    for second in range(SECONDS):
        answers |= await _append(writers[0], a_second(second))

    sent = {one.detection_id for second in range(SECONDS) for one in a_second(second)}
    assert answers.keys() == sent
    expected = Counter(answers.values())
    for writer in writers:
        found = await writer.reads.newest_first(None, None, None, 1000)
        assert {one.id: one.count for one in found} == expected
        assert {one.id: one.face_count for one in found} == expected
    points, _ = qdrant.client.scroll(DETECTIONS, limit=1000)
    stored = [uuid.UUID((point.payload or {})["appearance_id"]).bytes for point in points]
    assert Counter(stored) == expected
    for task in tasks:
        task.cancel()
    for writer in writers:
        await writer.close()
    qdrant.close()


def test_it_is_a_history(tmp_path: Path) -> None:
    """For the type checker, and for who adds another one."""
    qdrant = QdrantServer()
    history: HistoryStore = QdrantHistory.open(Settings(qdrant_url=qdrant.url, frames_url=f"file://{tmp_path}"))
    assert isinstance(history.frames, FrameStore)
    assert set(history.work()) == {"write", "sweep"}
    asyncio.run(history.close())
    qdrant.close()
