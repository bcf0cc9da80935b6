"""What the broker alone carries: the same payloads, published as fast as it goes, to a subscriber that does nothing."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from bench.load import Generator, Job
from bench.results import Baseline
from mesh.local import Broker

_WAIT_SECONDS = 60.0
_NEVER_REWRITE = 100_000_000


async def measure(directory: Path, generator: Generator, *, faces: int, messages: int) -> Baseline:
    """Starts a broker and an empty subscriber, publishes about so many messages with QoS 1, and stops both.

    Raises:
        RuntimeError: the subscriber did not get all of them within a minute.
    """
    context = multiprocessing.get_context("spawn")
    with Broker(directory, autosave_changes=_NEVER_REWRITE) as broker:
        # The rate only spaces the event times of unpaced messages.
        job = Job(broker.url, faces, 1000.0, messages / 1000.0, 0, 0, unpaced=True)
        ours, theirs = context.Pipe()
        subscriber = context.Process(target=_subscribe, args=(broker.port, job.messages, theirs), daemon=True)
        subscriber.start()
        try:
            if not ours.poll(_WAIT_SECONDS):
                raise RuntimeError("the empty subscriber did not subscribe")
            ours.recv()
            played = await generator.play(job)
            if not ours.poll(_WAIT_SECONDS):
                raise RuntimeError(f"the empty subscriber did not get {job.messages} messages")
            finished: float = ours.recv()
        finally:
            subscriber.terminate()
            subscriber.join()
    rate = job.messages / (finished - played.times[0])
    return Baseline(
        messages_per_second=rate,
        detections_per_second=rate * faces,
        messages=job.messages,
        payload_bytes=played.payload_bytes,
    )


def _subscribe(port: int, messages: int, report: Connection) -> None:
    """Says when it has subscribed, then the monotonic time at which it had all messages."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    left = messages

    def on_message(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            report.send(time.monotonic())

    def on_connect(*_: object) -> None:
        client.subscribe("#", qos=1)

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: report.send(time.monotonic())
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()
