"""Redis and the broker, started with the very configuration that is deployed, keep what they promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.deploy.states import SECONDS, Broker, Connection, Redis
from tests.deploy.test_manifests import K8S


@pytest.fixture
def broker(tmp_path: Path, secrets: dict[str, dict[str, str]]) -> Iterator[Broker]:
    with Broker(tmp_path, secrets["broker"]["passwords"]) as running:
        yield running


@pytest.fixture
def passwords(secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """User of the broker -> password."""
    ingest = secrets["broker"]["url"].removeprefix("mqtt://ingest:").partition("@")[0]
    return {"ingest": ingest, "camera": secrets["broker"]["camera-password"]}


def test_strangers_are_refused(broker: Broker, passwords: dict[str, str]) -> None:
    for user, password in ((None, ""), ("camera", "wrong"), ("camera", passwords["ingest"]), ("root", "")):
        stranger = Connection(broker.ports[1883], user, password)
        assert stranger.open().getName() == "Not authorized", user
        stranger.close()


@pytest.mark.parametrize("subscription", ["scenescape/data/camera/+", "$share/store/scenescape/data/camera/+"])
def test_ingest_hears_cameras_and_cameras_hear_what_they_are_asked(
    broker: Broker, passwords: dict[str, str], subscription: str
) -> None:
    ingest, camera, other = (
        Connection(broker.ports[1883], user, passwords[user], name=name)
        for user, name in (("ingest", "poi-ingest"), ("camera", "camera-1"), ("camera", "camera-2"))
    )
    for connection in (ingest, camera, other):
        connection.open()
        assert connection.code.is_failure is False
    ingest.subscribe(subscription)
    camera.subscribe("scenescape/cmd/camera/+")
    other.subscribe("scenescape/data/#")

    camera.publish("scenescape/data/camera/camera-1", b"seen")
    ingest.publish("scenescape/cmd/camera/camera-1", b"getimage")

    assert ingest.messages.get(timeout=SECONDS) == ("scenescape/data/camera/camera-1", b"seen")
    assert camera.messages.get(timeout=SECONDS) == ("scenescape/cmd/camera/camera-1", b"getimage")
    # Its turn has come by now: the broker answered both publishers after it had looked at every subscriber.
    assert other.messages.empty(), "one camera overhears another"
    assert camera.publish("poi-mesh/dead-letter/x").getName() == "Not authorized"
    assert ingest.publish("scenescape/data/camera/camera-1").getName() == "Not authorized"
    assert ingest.publish("poi-mesh/dead-letter/x").is_failure is False
    for connection in (ingest, camera, other):
        connection.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_comes_back_with_what_it_accepted(broker: Broker, passwords: dict[str, str], end: str) -> None:
    topic = "scenescape/data/camera/camera-1"
    sent = [(topic, str(number).encode()) for number in range(250)]
    ingest = Connection(broker.ports[1883], "ingest", passwords["ingest"], name="poi-ingest")
    ingest.open()
    ingest.subscribe("scenescape/data/#")
    ingest.close()
    camera = Connection(broker.ports[1883], "camera", passwords["camera"], name="camera-1")
    camera.open()
    for _, payload in sent:
        assert camera.publish(topic, payload).is_failure is False

    broker.kill() if end == "kill" else broker.stop()
    camera.close()
    broker.start()

    camera = Connection(broker.ports[1883], "camera", passwords["camera"], name="camera-1")
    camera.open()
    camera.publish(topic, b"last")
    ingest = Connection(broker.ports[1883], "ingest", passwords["ingest"], name="poi-ingest")
    ingest.open()
    heard = list(iter(lambda: ingest.messages.get(timeout=SECONDS), (topic, b"last")))
    for connection in (camera, ingest):
        connection.close()
    assert heard == sent[: len(heard)]
    may_be_lost = broker.autosave_interval if end == "kill" else 0
    assert len(heard) >= len(sent) - may_be_lost


def test_a_killed_redis_comes_back_with_what_it_acknowledged(
    tmp_path: Path, secrets: dict[str, dict[str, str]]
) -> None:
    assert secrets["redis"]["url"] == f"redis://:{secrets['redis']['password']}@redis:6379/0"
    with Redis(tmp_path, secrets["redis"]["password"]) as running:
        with redis.Redis(port=running.port, password=running.password) as client:
            for number in range(200):
                client.set(f"poi:test:{number}", number)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
        running.kill()
        running.start()
        with redis.Redis(port=running.port, password=running.password) as client:
            assert [client.get(f"poi:test:{number}") for number in range(200)] == [b"%d" % n for n in range(200)]
        with redis.Redis(port=running.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("poi:test:1")


def test_credentials_differ_every_time() -> None:
    program = [sys.executable, str(K8S.parent / "credentials.py")]
    first, second = (subprocess.run(program, check=True, capture_output=True, text=True).stdout for _ in range(2))

    assert first != second
