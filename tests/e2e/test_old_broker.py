"""A broker that speaks MQTT 3.1.1 only, as the demo's embedded one does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.local import Broker, Program
from tests.conftest import StartMesh
from tests.e2e.store import Store, settings

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work


async def test_the_recording_comes_to_the_same_through_mqtt_3_1_1(
    whole: Store, models_dir: Path, tmp_path: Path, started: Callable[[Program], None], mesh: StartMesh
) -> None:
    broker = Broker(tmp_path / "broker", program="amqtt")
    started(broker)
    running = mesh(settings(models_dir), mqtt_url=broker.url)
    store = dataclasses.replace(whole, mesh=running, photos={})
    await store.enrol()

    outcome = await store.play(frames=True)

    store.expected.check(outcome)
    assert outcome.status.protocol == "MQTT 3.1.1"
    assert all(
        one.frames for one in outcome.appearances if any(one.name == raised.appearance for raised in outcome.listed)
    )
