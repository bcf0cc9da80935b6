"""The recorded store at ten times its pace, checked against the truth about it."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest
from poi.v1 import history_pb2

from tests.e2e.client import Client
from tests.e2e.store import Store
from tests.e2e.story import Outcome

pytestmark = pytest.mark.timeout(120)  # many processes, also on a machine with other work


@pytest.fixture(scope="module")
def outcome(whole: Store) -> Outcome:
    """One replay for all tests of this file."""
    return asyncio.run(whole.play(frames=True))


def test_every_enrolled_appearance_alerts_exactly_once_and_no_stranger_does(whole: Store, outcome: Outcome) -> None:
    whole.expected.check_alerts(outcome)
    for alert in outcome.listed:
        assert alert.match.similarity >= alert.match.threshold
        assert outcome.window.holds(alert.detect_time)


def test_every_dwell_time_is_right_and_told_once(whole: Store, outcome: Outcome) -> None:
    whole.expected.check_visits(outcome)


def test_history_has_every_person_and_face(whole: Store, outcome: Outcome) -> None:
    whole.expected.check_appearances(outcome)


def test_every_message_is_acknowledged(whole: Store, outcome: Outcome) -> None:
    assert outcome.played.published == outcome.played.confirmed == whole.expected.truth.messages
    assert outcome.played.unheard == 0
    assert outcome.status.pending_messages == 0
    assert outcome.status.received_messages == outcome.status.acknowledged_messages
    assert outcome.status.rejections == 0
    assert outcome.interruptions == 0


async def test_a_photo_finds_all_her_appearances_and_nobody_elses(store: Store, outcome: Outcome) -> None:
    async with Client(store.mesh, store.store) as client:
        found = await client.history.SearchAppearances(
            history_pb2.SearchAppearancesRequest(
                parent=f"stores/{store.store}", image=store.photos["woman"][0], interval=outcome.window.interval
            ),
            timeout=20,
        )

    hits = [(hit.appearance.camera.rpartition("/")[2], hit.appearance.object_id) for hit in found.hits]
    assert sorted(hits) == sorted(store.expected.truth.people["woman"].appearances)
    assert {camera for camera, _ in hits} == {"Camera_01", "Camera_02"}
    assert found.total_size == len(hits)
    similarities = [hit.similarity for hit in found.hits]
    assert similarities == sorted(similarities, reverse=True)


async def test_appearances_name_the_zones_visited_meanwhile(store: Store, outcome: Outcome) -> None:
    zones = {
        (one.camera.rpartition("/")[2], one.object_id): {visit.zone.rpartition("/")[2] for visit in one.visits}
        for one in outcome.appearances
    }
    assert zones["Camera_01", "1"] == {"entrance", "aisle-3"}


async def test_every_alert_has_a_frame_as_evidence(store: Store, outcome: Outcome) -> None:
    by_name = {one.name: one for one in outcome.appearances}
    async with Client(store.mesh, store.store) as client:
        for alert in outcome.listed:
            frames = by_name[alert.appearance].frames
            assert frames
            parts = [part async for part in client.history.GetFrame(history_pb2.GetFrameRequest(name=frames[0].name))]
            assert parts[0].content_type == "image/jpeg"
            data = b"".join(part.data for part in parts)
            assert len(data) == frames[0].size_bytes
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape == (540, 960, 3)
