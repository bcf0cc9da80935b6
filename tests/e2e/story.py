"""One replay of the recorded store through a running mesh, what came of it, and what should have."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2, history_pb2, ingest_pb2, region_pb2

from clients.replay import Evidence, Progress, Publisher, Recording, Replay
from mesh.local import Mesh
from tests.e2e.client import Client, Follower, seconds, until
from tests.support import Truth

MARKER = "e2e-marker"
"""A camera that the recording does not have."""
SPEED = 10.0
_WINDOW_S = 60
_MARKER_S = 45

Key = tuple[str, str]
"""(camera, object id): one appearance."""

# Each replay has a minute of its own, so that one mesh serves many: later than all before it, as scenes demand.
_starts = itertools.count(int(time.time()) - 3 * 3600, _WINDOW_S)


@dataclass(frozen=True)
class Window:
    """The minute of event time of one replay."""

    start: int = field(default_factory=lambda: next(_starts))
    """Seconds since the epoch."""

    @property
    def interval(self) -> common_pb2.Interval:
        return common_pb2.Interval(
            start_time=Timestamp(seconds=self.start), end_time=Timestamp(seconds=self.start + _WINDOW_S)
        )

    def holds(self, moment: Timestamp) -> bool:
        return self.start <= moment.seconds < self.start + _WINDOW_S


@dataclass(frozen=True)
class Disturbance:
    """Something blocking that is done when the replay has come to this second of the recording."""

    at_s: float
    act: Callable[[], object]


@dataclass
class Outcome:
    """All that a client can learn of one replay when everything has been used."""

    window: Window
    streamed: list[alert_pb2.Alert]
    """As they were raised to a client that reconnects with its cursor."""
    listed: list[alert_pb2.Alert]
    appearances: list[history_pb2.Appearance]
    visits: list[region_pb2.Visit]
    events: list[region_pb2.WatchVisitsResponse]
    status: ingest_pb2.IngestStatus
    played: Progress
    interruptions: int
    """How often the two streams were cut off."""


async def play(
    mesh: Mesh,
    store: str,
    recording: Recording,
    *disturbances: Disturbance,
    evidence: Evidence | None = None,
    speed: float = SPEED,
    window: Window | None = None,
) -> Outcome:
    """Replay the recording, disturb it, wait until all of it has been used, and ask for what came of it."""
    window = window or Window()
    async with Client(mesh, store) as client:
        await until(lambda: _connected(client), "ingest has subscribed at the broker")
        alerts, visits = client.follow_alerts(), client.follow_visits()
        async with _following(alerts, visits):
            played = await _replay(mesh, recording, window, disturbances, evidence, speed)
            await settle(client, mesh.mqtt_url, window)
            async with asyncio.timeout(60):
                await asyncio.gather(alerts.until_silent(), visits.until_silent())
        return Outcome(
            window,
            streamed=[
                seen.alert
                for seen in alerts.seen
                if seen.event == alert_pb2.ALERT_EVENT_RAISED and window.holds(seen.alert.detect_time)
            ],
            listed=[alert for alert in await client.alerts() if window.holds(alert.detect_time)],
            appearances=[one for one in await client.appearances(window.interval) if not one.camera.endswith(MARKER)],
            visits=await client.visits(window.interval),
            events=[seen for seen in visits.seen if window.holds(seen.visit.enter_time)],
            status=await client.ingest_status(),
            played=played,
            interruptions=alerts.interruptions + visits.interruptions,
        )


async def _connected(client: Client) -> bool:
    return (await client.ingest_status()).connected


async def settle(client: Client, mqtt_url: str, window: Window) -> None:
    """Returns when ingest has used and acknowledged all that was published before this call.

    The broker keeps the order, so a last message that has arrived in history says that all have come in.
    """
    person = {"id": 1, "confidence": 0.9, "bounding_box_px": [0, 0, 10, 10]}
    message = {"id": MARKER, "timestamp": window.start + _MARKER_S, "objects": {"person": [person]}}
    await asyncio.to_thread(publish, mqtt_url, [(f"scenescape/data/camera/{MARKER}", orjson.dumps(message))])

    async def settled() -> bool:
        if not await client.appearances(window.interval, MARKER):
            return False
        status = await client.ingest_status()
        return status.connected and status.pending_messages == 0

    await until(settled, "ingest has used everything")


def publish(mqtt_url: str, messages: Sequence[tuple[str, bytes]]) -> None:
    """Publishes (topic, payload) one after the other; returns when the broker has confirmed them."""
    publisher = Publisher(mqtt_url)
    publisher.connect()
    try:
        for topic, payload in messages:
            publisher.publish(topic, payload)
        publisher.flush(60)
    finally:
        publisher.close()


@asynccontextmanager
async def _following(
    alerts: Follower[alert_pb2.StreamAlertsResponse], visits: Follower[region_pb2.WatchVisitsResponse]
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:  # a follower that fails ends the test at once
        following = [tasks.create_task(follower.run()) for follower in (alerts, visits)]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(alerts.until_live(), visits.until_live())
            yield
        finally:
            for task in following:
                task.cancel()


async def _replay(
    mesh: Mesh,
    recording: Recording,
    window: Window,
    disturbances: Sequence[Disturbance],
    evidence: Evidence | None,
    speed: float,
) -> Progress:
    loop = asyncio.get_running_loop()
    due = sorted(disturbances, key=lambda one: one.at_s)
    reached = [asyncio.Event() for _ in due]

    def progress(now: Progress) -> None:
        for one, event in zip(due, reached, strict=True):
            if now.at_ms >= one.at_s * 1000:
                loop.call_soon_threadsafe(event.set)

    async def disturb() -> None:
        for one, event in zip(due, reached, strict=True):
            await event.wait()
            await asyncio.to_thread(one.act)

    replay = Replay(
        recording,
        mesh.mqtt_url,
        speed=speed,
        start_ms=window.start * 1000,
        evidence=evidence,
        on_progress=progress,
        linger_s=0.5,
    )
    async with asyncio.TaskGroup() as tasks:
        disturbing = tasks.create_task(disturb())
        playing = tasks.create_task(asyncio.to_thread(replay.run))
    assert disturbing.done()
    return playing.result()


@dataclass(frozen=True)
class Expected:
    """What a replay must come to."""

    truth: Truth
    detections: Mapping[Key, int]
    """Appearance -> its detections, counted in the recording itself."""
    faces: Mapping[Key, int]
    spans: Mapping[Key, tuple[float, float]]
    """Appearance -> first and last sight, in seconds after the recording's start."""

    def check(self, outcome: Outcome) -> None:
        """Nothing is missing and nothing doubled."""
        self.check_alerts(outcome)
        self.check_appearances(outcome)
        self.check_visits(outcome)

    def check_alerts(self, outcome: Outcome) -> None:
        """Every appearance of an enrolled person alerts exactly once, and nobody else's does."""
        wanted = sorted(
            (poi_id, *appearance)
            for poi_id, person in self.truth.people.items()
            if person.enrol_from
            for appearance in person.appearances
        )
        objects = {one.name: one.object_id for one in outcome.appearances}
        for alerts in (outcome.streamed, outcome.listed):
            raised = [(_id(alert.match.poi), _id(alert.camera), objects[alert.appearance]) for alert in alerts]
            assert sorted(raised) == wanted
        assert {alert.name for alert in outcome.streamed} == {alert.name for alert in outcome.listed}

    def check_appearances(self, outcome: Outcome) -> None:
        """Every object of the pipeline is one appearance, with each of its detections and faces once."""
        counted = Counter((_id(one.camera), one.object_id) for one in outcome.appearances)
        assert counted == Counter(list(self.detections))
        by_key = {(_id(one.camera), one.object_id): one for one in outcome.appearances}
        assert {key: one.detection_count for key, one in by_key.items()} == self.detections
        assert {key: one.face_count for key, one in by_key.items()} == self.faces
        for key, one in by_key.items():
            span = (seconds(one.start_time) - outcome.window.start, seconds(one.end_time) - outcome.window.start)
            assert all(abs(got - wanted) < 0.002 for got, wanted in zip(span, self.spans[key], strict=True)), key
        for camera, count in self.truth.persons.items():
            assert sum(one.detection_count for key, one in by_key.items() if key[0] == camera) == count
        for camera, count in self.truth.faces.items():
            assert sum(one.face_count for key, one in by_key.items() if key[0] == camera) == count

    def check_visits(self, outcome: Outcome) -> None:
        """Every stay in a zone once, right to half a second; one entry and one exit of each was told, in that order."""
        wanted = sorted(self.truth.dwell, key=lambda one: (one.object, one.zone))
        got = sorted(outcome.visits, key=lambda one: (one.object_id, one.zone))
        assert [(one.object_id, _id(one.zone)) for one in got] == [(one.object, one.zone) for one in wanted]
        for visit, truth in zip(got, wanted, strict=True):
            assert visit.state == region_pb2.VISIT_STATE_CLOSED
            assert abs(seconds(visit.enter_time) - outcome.window.start - truth.enter_s) <= 0.5
            assert abs(seconds(visit.exit_time) - outcome.window.start - truth.exit_s) <= 0.5
            assert abs(visit.dwell.ToNanoseconds() / 1e9 - truth.dwell_s) <= 0.5
        told = defaultdict(list)
        for response in outcome.events:
            told[response.visit.name].append(response)
        assert {name: once(events) for name, events in told.items()} == {
            visit.name: [region_pb2.VISIT_EVENT_ENTERED, region_pb2.VISIT_EVENT_EXITED] for visit in outcome.visits
        }


def once(events: Sequence[region_pb2.WatchVisitsResponse]) -> list[int]:
    """Entries and exits of one visit without those of a silence.

    It ends visits at their last sight; when it is over they go on, or their exit is told again with its true time.
    """
    kept: list[region_pb2.WatchVisitsResponse] = []
    for event in events:
        last = kept[-1] if kept else None
        after_exit = last is not None and last.event == region_pb2.VISIT_EVENT_EXITED
        if last is not None and after_exit and event.event == region_pb2.VISIT_EVENT_ENTERED:
            kept.pop()
        elif last is not None and after_exit and event.visit.exit_time != last.visit.exit_time:
            kept[-1] = event
        else:
            kept.append(event)
    return [one.event for one in kept]


def expect(recording: Recording, truth: Truth) -> Expected:
    """What the recording must come to."""
    detections: Counter[Key] = Counter()
    faces: Counter[Key] = Counter()
    spans: dict[Key, tuple[float, float]] = {}
    for line in recording.lines:
        if not line.topic.startswith("scenescape/data/camera/"):
            continue
        for person in line.payload["objects"]["person"]:
            key = (Path(line.topic).name, str(person["id"]))
            detections[key] += 1
            faces[key] += len(person.get("sub_objects", {}).get("face", []))
            spans[key] = (spans.get(key, (line.t_ms / 1000,))[0], line.t_ms / 1000)
    return Expected(truth, dict(detections), dict(faces), spans)


def _id(name: str) -> str:
    return name.rpartition("/")[2]
