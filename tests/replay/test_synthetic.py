import base64
from collections import defaultdict
from itertools import pairwise

import numpy as np
import orjson
import pytest

from clients.replay import CameraTraffic, People, SceneTraffic
from clients.replay.traffic import epoch_ms

START_MS = 1_800_000_000_000


def face_of(person: dict[str, object]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    reid = person["sub_objects"]["face"][0]["metadata"]["reid"]  # type: ignore[index]
    assert reid["model_name"] == "face-reidentification-retail-0095"
    return np.frombuffer(base64.b64decode(reid["embedding_vector"]), "<f4")


def test_people_look_like_themselves_and_like_nobody_else() -> None:
    people = People(seed=1)
    faces = np.stack([[people.sighting(person, k) for k in range(6)] for person in range(20)])
    assert np.allclose(np.linalg.norm(faces, axis=-1), 1, atol=1e-6)

    cosines = np.einsum("pid,qjd->piqj", faces, faces)
    same = np.array([cosines[p, i, p, j] for p in range(20) for i in range(6) for j in range(i)])
    other = np.array([cosines[p, i, q, j] for p in range(20) for q in range(p) for i in range(6) for j in range(6)])

    assert same.mean() == pytest.approx(0.75, abs=0.02)
    assert same.min() > 0.6
    assert other.max() < 0.4


def test_the_same_seed_gives_the_same_messages() -> None:
    def payloads(seed: int) -> list[bytes]:
        traffic = CameraTraffic(cameras=2, faces=2, rate=5, seconds=4, enrolled=3, seed=seed)
        return [message.payload for message in traffic.messages(START_MS)]

    assert payloads(1) == payloads(1)
    assert payloads(1) != payloads(2)


def test_messages_are_as_cameras_send_them_and_the_tracks_tell_the_truth() -> None:
    traffic = CameraTraffic(cameras=3, faces=2, rate=20, seconds=10, enrolled=5, enrolled_share=0.5, track_seconds=2)
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    faces = {}
    last_ms = dict.fromkeys(["Camera_01", "Camera_02", "Camera_03"], 0)
    messages = list(traffic.messages(START_MS))

    assert len(messages) == 600
    assert messages[-1].due_ms == traffic.duration_ms
    assert [message.due_ms for message in messages] == sorted(message.due_ms for message in messages)
    for message in messages:
        payload = orjson.loads(message.payload)
        assert message.topic == f"scenescape/data/camera/{payload['id']}"
        assert epoch_ms(payload["timestamp"]) == message.timestamp_ms > last_ms[message.camera]
        last_ms[message.camera] = message.timestamp_ms
        assert len(payload["objects"]["person"]) == 2
        for person in payload["objects"]["person"]:
            seen[message.camera, person["id"]].append(message.timestamp_ms)
            faces[message.camera, person["id"]] = face_of(person)
            assert person["metadata"]["reid"]["model_name"] == "person-reidentification-retail-0277"

    assert {(track.camera, track.object_id) for track in traffic.tracks} == seen.keys()
    assert any(track.enrolled for track in traffic.tracks)
    assert not all(track.enrolled for track in traffic.tracks)
    enrolled = np.stack([traffic.people.enrolment(person) for person in range(5)])
    for track in traffic.tracks:
        times = seen[track.camera, track.object_id]
        assert (times[0], times[-1]) == (track.first_ms, track.last_ms)
        cosines = enrolled @ faces[track.camera, track.object_id]
        assert (cosines.max() > 0.6) == track.enrolled
        if track.enrolled:
            assert cosines.argmax() == track.person


def test_two_tracks_of_a_camera_are_never_the_same_person_at_once() -> None:
    traffic = CameraTraffic(cameras=1, faces=4, rate=10, seconds=30, enrolled=2, enrolled_share=1.0, track_seconds=1)
    list(traffic.messages(START_MS))
    tracks = sorted(traffic.tracks, key=lambda track: (track.person, track.first_ms))
    for one, next_one in pairwise(tracks):
        assert one.person != next_one.person or one.last_ms < next_one.first_ms


def test_bodies_can_be_left_out() -> None:
    traffic = CameraTraffic(cameras=1, faces=1, rate=1, seconds=1, bodies=False)
    (message,) = traffic.messages(START_MS)
    (person,) = orjson.loads(message.payload)["objects"]["person"]
    assert "metadata" not in person
    assert face_of(person).shape == (256,)


def test_two_messages_of_a_camera_cannot_share_a_millisecond() -> None:
    with pytest.raises(ValueError, match="rate must be in"):
        CameraTraffic(rate=1001)


def test_a_scene_shows_the_stays_that_it_says() -> None:
    scene = SceneTraffic(people=3, rate=4)
    shown: dict[tuple[str, str], list[int]] = defaultdict(list)
    entered = {}
    for message in scene.messages(START_MS):
        for item in orjson.loads(message.payload)["objects"]:
            (zone,) = item["regions"]
            shown[item["id"], zone].append(message.timestamp_ms - START_MS)
            entered[item["id"], zone] = epoch_ms(item["regions"][zone]["entered"]) - START_MS

    assert {(stay.object_id, stay.zone) for stay in scene.stays} == shown.keys()
    for stay in scene.stays:
        times = shown[stay.object_id, stay.zone]
        assert (times[0], times[-1] + 250) == (stay.enter_ms, stay.exit_ms)
        assert entered[stay.object_id, stay.zone] == stay.enter_ms
