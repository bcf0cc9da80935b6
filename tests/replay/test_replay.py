"""The replay against real brokers, one of which is killed."""

import base64
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import orjson
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from clients.replay import CameraTraffic, Evidence, Mixed, Progress, Publisher, Recording, Replay, SceneTraffic
from clients.replay.traffic import Message
from mesh.local import Broker

Key = tuple[str, str]  # topic, timestamp in the payload


class Listener:
    """Takes every message on the traffic's topics, through a session that the broker keeps."""

    def __init__(
        self, url: str, topic: str = "scenescape/#", protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    ) -> None:
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._subscribed = threading.Event()
        modern = protocol == MQTTProtocolVersion.MQTTv5
        properties = None
        if modern:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3600
        self._topic = topic
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, "listener", clean_session=None if modern else False, protocol=protocol
        )
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self.client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda client, userdata, message: self.messages.put(
            (message.topic, bytes(message.payload))
        )
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self.client.connect(host, int(port), clean_start=False if modern else 3, properties=properties)
        self.client.loop_start()
        assert self._subscribed.wait(60)

    def take(self, wanted: set[Key], timeout: float = 60) -> list[Key]:
        """The (topic, timestamp) of all that came, once all the wanted ones have."""
        got: list[Key] = []
        missing, deadline = set(wanted), time.monotonic() + timeout
        while missing:
            try:
                topic, payload = self.messages.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"{len(missing)} of {len(wanted)} messages never came") from None
            got.append((topic, orjson.loads(payload)["timestamp"]))
            missing.discard(got[-1])
        return got

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


Listen = Callable[..., Listener]


@pytest.fixture
def listen() -> Iterator[Listen]:
    listeners = []

    def start(*args: object, **settings: object) -> Listener:
        listeners.append(Listener(*args, **settings))  # type: ignore[arg-type]
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def keys(replay: Replay) -> set[Key]:
    """What a replay that has run must have delivered."""
    assert replay.start_ms is not None
    return {
        (message.topic, orjson.loads(message.payload)["timestamp"])
        for message in replay.traffic.messages(replay.start_ms)
    }


def small() -> Mixed:
    return Mixed([CameraTraffic(cameras=2, faces=1, rate=20, seconds=2), SceneTraffic(people=1, stay_updates=(1, 1))])


def test_delivers_everything_once_at_its_own_pace(broker: Broker, listen: Listen) -> None:
    listener = listen(broker.url)
    replay = Replay(small(), broker.url, speed=2)
    started = time.monotonic()

    progress = replay.run()

    took = time.monotonic() - started
    duration = replay.traffic.duration_ms
    assert duration is not None
    assert took >= duration / 1000 / 2 - 0.05
    assert progress.published == progress.confirmed == 85
    assert (progress.repeated, progress.unheard) == (0, 0)
    assert sorted(listener.take(keys(replay))) == sorted(keys(replay))


def test_knows_when_each_camera_message_was_published(broker: Broker) -> None:
    replay = Replay(small(), broker.url, speed=4)
    before = time.monotonic()
    progress = replay.run()
    late = lateness(replay, before, speed=4)
    assert min(late) > -0.05
    # A machine that does something else publishes late, which is known too.
    assert max(late) - min(late) <= progress.max_lag_s + 1e-6


def lateness(replay: Replay, before: float, speed: float) -> list[float]:
    """How much later than due each camera message was published, in seconds."""
    assert replay.start_ms is not None

    cameras = [message for message in replay.traffic.messages(replay.start_ms) if message.camera]
    assert replay.published_at.keys() == {(message.camera, message.timestamp_ms) for message in cameras}
    return [
        replay.published_at[message.camera, message.timestamp_ms] - before - message.due_ms / 1000 / speed
        for message in cameras
    ]


def test_no_event_lies_in_the_future_however_fast(broker: Broker) -> None:
    replay = Replay(small(), broker.url, speed=math.inf)
    progress = replay.run()
    last_ms = max(timestamp for _, timestamp in replay.published_at)
    assert last_ms <= time.time() * 1000
    assert progress.unheard == progress.published  # and it says that nobody listened


def test_traffic_without_end_stops_when_told(broker: Broker) -> None:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.published >= 10:
            replay.stop()

    replay = Replay(CameraTraffic(cameras=1, rate=50), broker.url, on_progress=watch)
    assert replay.run().published >= 10
    assert seen[-1].duration_ms is None
    with pytest.raises(ValueError, match="speed 1 only"):
        Replay(CameraTraffic(), broker.url, speed=2)


def test_a_stop_does_not_wait_for_the_next_message(broker: Broker, shared_dir: Path) -> None:
    # The recording begins 24 s after its time here: nothing is due for as long.
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    replay = Replay(Recording([line for line in recording.lines if line.t_ms >= 24_000]), broker.url)
    threading.Timer(0.5, replay.stop).start()
    started = time.monotonic()
    assert replay.run().published == 0
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kills", [1, 3])
def test_nothing_is_missing_when_the_broker_is_killed(
    broker: Broker, listen: Listen, shared_dir: Path, kills: int
) -> None:
    listener = listen(broker.url)
    broker.save()
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    reached = [threading.Event() for _ in range(kills)]

    def watch(progress: Progress) -> None:
        for number, event in enumerate(reached, 1):
            if progress.at_ms >= recording.duration_ms * number / (kills + 1):
                event.set()

    replay = Replay(recording, broker.url, speed=10, on_progress=watch)
    results: list[Progress] = []
    thread = threading.Thread(target=lambda: results.append(replay.run()))
    thread.start()
    for event in reached:
        assert event.wait(60)
        broker.kill()
        broker.start()
    thread.join(60)

    (progress,) = results
    assert progress.repeated > 0
    assert progress.confirmed == progress.published == len(recording.lines)
    got = listener.take(keys(replay))
    assert set(got) == keys(replay)


def test_messages_that_the_broker_confirmed_and_forgot_come_again(broker: Broker, listen: Listen) -> None:
    """mosquitto confirms before it writes: a SIGKILL between the two lost what nobody would ever send again."""
    listen(broker.url, "news").close()
    broker.save()
    publisher = Publisher(broker.url)
    publisher.connect()
    for number in range(10):
        publisher.publish("news", b'{"timestamp": "%d"}' % number)
        publisher.flush(60)

    broker.kill()  # fewer changes than it takes to write them down
    broker.start()
    publisher.work(0.5)
    publisher.flush(60)
    publisher.close()

    assert publisher.reconnects == 1
    listen(broker.url, "news").take({("news", str(number)) for number in range(10)})


def test_old_brokers_get_the_old_protocol(tmp_path: Path, listen: Listen) -> None:
    with Broker(tmp_path, program="amqtt") as broker:
        listener = listen(broker.url, protocol=MQTTProtocolVersion.MQTTv311)
        replay = Replay(small(), broker.url, speed=10)
        assert replay.run().confirmed == 85
        listener.take(keys(replay))
        listener.close()


def test_no_broker_is_a_clear_error(free_port: int) -> None:
    with pytest.raises(ConnectionError, match=f"no MQTT broker answers at 127.0.0.1:{free_port}"):
        Replay(small(), f"mqtt://user:secret@127.0.0.1:{free_port}").run()


def test_a_password_may_have_any_characters() -> None:
    client = Publisher("mqtt://a%40b:p%2Fw%3A@127.0.0.1")._new_client(MQTTProtocolVersion.MQTTv5)
    assert (client.username, client.password) == ("a@b", "p/w:")


def test_cameras_answer_with_the_frame_of_their_last_message(broker: Broker, listen: Listen, shared_dir: Path) -> None:
    recording = Recording.load(shared_dir / "recordings" / "store.jsonl.gz")
    evidence = Evidence.of_recorded_store(shared_dir / "media")
    listener = listen(broker.url, "scenescape/image/camera/+")

    def ask(progress: Progress) -> None:
        if progress.at_ms == recording.duration_ms and not evidence.answered:
            listener.client.publish("scenescape/cmd/camera/Camera_99", b"getimage")
            listener.client.publish("scenescape/cmd/camera/Camera_01", b"getimage")

    replay = Replay(recording, broker.url, speed=50, evidence=evidence, on_progress=ask, linger_s=120.0)
    thread = threading.Thread(target=replay.run)
    thread.start()
    topic, payload = listener.messages.get(timeout=60)
    replay.stop()
    thread.join(60)
    assert topic == "scenescape/image/camera/Camera_01"
    answer = orjson.loads(payload)
    assert answer.keys() == {"timestamp", "image"}
    image = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (540, 960, 3)
    assert listener.messages.empty()  # a camera that has sent nothing does not answer
    # Its last message was made from the last frame of its clip.
    with av.open(str(shared_dir / "media" / "head-pose-face-detection-female-and-male.gif")) as clip:
        *_, last = (frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0))
    assert np.abs(cv2.resize(image, (480, 270)).astype(float) - last).mean() < 4


def test_cameras_without_a_clip_draw_their_boxes(broker: Broker) -> None:
    evidence = Evidence()
    Replay(CameraTraffic(cameras=1, seconds=0.1), broker.url, evidence=evidence, linger_s=0).run()
    jpeg = evidence.frame("Camera_01")
    assert jpeg is not None
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None


@pytest.mark.parametrize(
    "objects",
    [
        None,
        {"face": [{"bounding_box_px": [10, 100, 50, 50]}]},
        {"person": [{"bounding_box_px": {"x": 10, "y": 100, "w": 50, "h": 50}, "sub_objects": {"face": [{}]}}]},
        [{"category": "person", "bounding_box_px": [10.5, 100, 50, 50]}, {"category": "vehicle"}, 7],
        {"person": [{"bounding_box_px": "far"}, {"bounding_box_px": [1e300, 0, 1, 1]}, {}]},
    ],
)
def test_boxes_are_drawn_in_every_form_that_cameras_send(objects: object) -> None:
    payload = orjson.dumps({"timestamp": 1.0, "objects": objects})
    evidence = Evidence()
    evidence.seen(Message(0.0, "scenescape/data/camera/c1", payload, "c1", 1000))

    jpeg = evidence.frame("c1")

    assert jpeg is not None
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    is_drawn = np.abs(image[98:152, 8:62].astype(int) - 96).max() > 30
    assert is_drawn == (b"100" in payload)


def test_by_hand(broker: Broker, listen: Listen, shared_dir: Path, free_port: int) -> None:
    listener = listen(broker.url)
    command = [sys.executable, "-m", "clients.replay", str(shared_dir / "recordings" / "store.jsonl.gz")]
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [*command, "--mqtt", broker.url, "--speed", "60", "--shift-to-now"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "260 messages, 260 confirmed" in done.stderr
    deadline = time.monotonic() + 60
    while listener.messages.qsize() < 260 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert listener.messages.qsize() == 260

    failed = subprocess.run(
        [*command, "--mqtt", f"mqtt://127.0.0.1:{free_port}"], cwd=root, capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert "no MQTT broker answers" in failed.stderr
    assert "Traceback" not in failed.stderr
