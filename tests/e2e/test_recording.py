"""The recorded store at ten times its pace, checked against the truth about it."""

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from poi.v1 import alert_pb2, history_pb2
from typer.testing import CliRunner

from clients.cli.__main__ import app
from clients.cli.export import check
from tests.e2e.client import Client, until
from tests.e2e.store import Store
from tests.e2e.story import Outcome

_ASKED = ("alert", "history")
pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work


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
    assert len(outcome.events) == 2 * len(outcome.visits)


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
            timeout=60,
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


async def test_every_alert_gets_its_picture_and_can_be_exported(store: Store, outcome: Outcome, tmp_path: Path) -> None:
    async with Client(store.mesh, store.store) as client:
        shown: list[alert_pb2.Alert] = []

        async def made() -> bool:
            shown[:] = [alert for alert in await client.alerts() if outcome.window.holds(alert.detect_time)]
            return all(alert.HasField("evidence") for alert in shown)

        await until(made, "every alert has its picture")
        assert len(shown) == len(outcome.listed)
        for alert in shown:
            parts = client.history.GetFrame(history_pb2.GetFrameRequest(name=alert.evidence.picture))
            data = b"".join([part.data async for part in parts])
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape[0] == 480

    env = {"POI_STORE": store.store, **{f"POI_{name.upper()}_TARGET": store.mesh.target(name) for name in _ASKED}}

    async def poi(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=env)
        assert result.exit_code == 0, result.output
        return result.stdout

    name, made_of_it = (each.rpartition("/")[2] for each in (shown[0].name, shown[0].evidence.picture))
    (line,) = [line for line in (await poi("alerts", "--limit", "1000")).splitlines() if line.endswith(name)]
    assert made_of_it in line
    saved, out = tmp_path / "picture.jpg", tmp_path / "case.zip"
    await poi("frame", made_of_it, "-o", str(saved))
    await poi("export", name, "--actor", "ann", "--purpose", "case 4711", "--out", str(out))
    inside = {one.name for one in check(out).files}
    assert {"alert.json", "history.json", "frame.jpg", "face.jpg", "picture.jpg"} <= inside
    with zipfile.ZipFile(out) as archive:
        assert archive.read("picture.jpg") == saved.read_bytes()
