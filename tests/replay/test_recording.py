import gzip
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from clients.replay import Mixed, Recording, SceneTraffic
from clients.replay.recording import Line
from clients.replay.traffic import epoch_ms, iso
from tests.support import load_truth

RECORDED = "2026-11-20T09:00:00.000Z"


def scene_line() -> Line:
    payload = {
        "id": "scene-1",
        "timestamp": "2026-11-20T09:00:01.500Z",
        "rate": 2.0,
        "objects": [
            {"id": "a", "first_seen": RECORDED, "regions": {"entrance": {"entered": "2026-11-20T09:00:00.250Z"}}},
        ],
    }
    return Line(t_ms=1500, topic="scenescape/regulated/scene/scene-1", payload=payload)


def test_every_time_in_a_payload_moves_and_nothing_else() -> None:
    start_ms = epoch_ms("2027-03-01T23:59:59.100Z")
    (message,) = Recording([scene_line()]).messages(start_ms)

    assert message.timestamp_ms == start_ms + 1500
    assert orjson.loads(message.payload) == {
        "id": "scene-1",
        "timestamp": "2027-03-02T00:00:00.600Z",
        "rate": 2.0,
        "objects": [
            {
                "id": "a",
                "first_seen": "2027-03-01T23:59:59.100Z",
                "regions": {"entrance": {"entered": "2027-03-01T23:59:59.350Z"}},
            },
        ],
    }


def test_times_in_epoch_seconds_move_too() -> None:
    line = Line(t_ms=0, topic="scenescape/data/camera/c1", payload={"timestamp": 1000.25, "rate": 10.0})
    (message,) = Recording([line]).messages(2_000_000)
    assert orjson.loads(message.payload) == {"timestamp": 2000.0, "rate": 10.0}
    assert message.camera == "c1"


def test_unshifted_payloads_stay_as_recorded() -> None:
    line = scene_line()
    (message,) = Recording([line], shift=False).messages(123)
    assert orjson.loads(message.payload) == line.payload
    assert iso(message.timestamp_ms) == line.payload["timestamp"]


def test_a_line_that_is_no_message_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(scene_line().model_dump_json() + '\n{"t_ms": 5, "topic": "x", "payload": {}}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2 is not a recorded message: .*no timestamp"):
        Recording.load(path)


@pytest.mark.parametrize(
    "line",
    [
        '{"t_ms": NaN, "topic": "x", "payload": {"timestamp": 1}}',
        '{"t_ms": 0, "topic": "x", "payload": {"timestamp": 1e999}}',
    ],
)
def test_a_time_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1 is not a recorded message"):
        Recording.load(path)


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-20], lambda packed: packed[:20] + b"\xff" * 9 + packed[29:]]
)
def test_a_recording_that_was_cut_off_or_damaged_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(damage(gzip.compress(scene_line().model_dump_json().encode() * 3)))
    with pytest.raises((ValueError, gzip.BadGzipFile), match=r"bad|CRC"):
        Recording.load(path)


def test_the_recorded_store_keeps_its_spacing(shared_dir: Path) -> None:
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    messages = list(recording.messages(start_ms := epoch_ms("2026-12-24T18:00:00Z")))
    truth = load_truth(shared_dir)

    assert len(messages) == truth.messages
    assert all(message.timestamp_ms == start_ms + message.due_ms for message in messages)
    for camera, persons in truth.persons.items():
        payloads = [orjson.loads(message.payload) for message in messages if message.camera == camera]
        assert sum(len(payload["objects"]["person"]) for payload in payloads) == persons


def test_mixed_traffic_is_in_order() -> None:
    mixed = Mixed([SceneTraffic(rate=2), SceneTraffic(rate=4, seed=1)])
    due = [message.due_ms for message in mixed.messages(0)]
    assert due == sorted(due)
    assert due[-1] == mixed.duration_ms
