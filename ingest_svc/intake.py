"""What comes from the broker, to the flow that uses it: cameras, scenes, their regions' events, frames."""

from __future__ import annotations

import time
from collections.abc import Sequence

import prometheus_client
import structlog

from ingest_svc.acknowledgements import Acknowledgements
from ingest_svc.cameras import CameraParser
from ingest_svc.clocks import CameraClocks
from ingest_svc.dead_letters import DeadLetters
from ingest_svc.detections import DetectionFlow
from ingest_svc.evidence import Evidence
from ingest_svc.mqtt import Token
from ingest_svc.presence import Presence
from ingest_svc.rejections import Problem, Refused
from ingest_svc.scene_flow import SceneFlow
from ingest_svc.scenes import SceneParser

_log = structlog.get_logger(__name__)

_MESSAGES = prometheus_client.Counter("poi_ingest_messages", "Messages that came in.", ["kind"])
_PARSE_SECONDS = prometheus_client.Counter("poi_ingest_parse_seconds", "Seconds spent on reading messages.")


class Topics:
    """The topics of a store's cameras and scenes."""

    def __init__(self, root: str) -> None:
        self.camera = f"{root}/data/camera/"
        self.scene = f"{root}/regulated/scene/"
        self.region = f"{root}/event/region/"
        self.image = f"{root}/image/camera/"
        self.command = f"{root}/cmd/camera/"

    def subscriptions(self, shared_group: str) -> list[tuple[str, int]]:
        """(topic filter, QoS). Frames are not shared: they go to the replica that asked, and a lost one is no harm."""
        share = f"$share/{shared_group}/" if shared_group else ""
        return [
            (f"{share}{self.camera}+", 1),
            (f"{share}{self.scene}+", 1),
            (f"{share}{self.region}+/+/count", 1),
            (f"{share}{self.region}+/+/objects", 1),
            (f"{self.image}+", 0),
        ]


class Intake:
    """Reads every message. Nothing that a message holds makes `take` raise."""

    def __init__(
        self,
        topics: Topics,
        cameras: CameraParser,
        scenes: SceneParser,
        *,
        detections: DetectionFlow,
        scene_flow: SceneFlow,
        evidence: Evidence | None,
        acknowledgements: Acknowledgements,
        presence: Presence,
        dead_letters: DeadLetters,
        clocks: CameraClocks,
        max_payload_bytes: int,
    ) -> None:
        self._topics = topics
        self._cameras = cameras
        self._scenes = scenes
        self._detections = detections
        self._scene_flow = scene_flow
        self._evidence = evidence
        self._acknowledgements = acknowledgements
        self._presence = presence
        self._dead_letters = dead_letters
        self._clocks = clocks
        self._max_payload = max_payload_bytes
        self._camera_messages = _MESSAGES.labels("camera")
        self._scene_messages = _MESSAGES.labels("scene")
        self._region_messages = _MESSAGES.labels("region")
        self._image_messages = _MESSAGES.labels("image")
        self.messages = 0
        """Messages that came in, repeats included."""

    def take(self, topic: str, payload: bytes, token: Token) -> None:
        """Read one message and send what it says on its way."""
        started = time.perf_counter()
        self.messages += 1
        delivery = self._acknowledgements.open(token)
        problems: Sequence[Problem] = ()
        try:
            if topic.startswith(self._topics.image):
                self._image_messages.inc()
                if self._evidence is not None:
                    self._evidence.received(topic[len(self._topics.image) :], payload)
            elif len(payload) > self._max_payload:
                raise Refused("TOO_LARGE", "", f"{len(payload)} bytes, {self._max_payload} at most")
            elif topic.startswith(self._topics.camera):
                self._camera_messages.inc()
                camera_id = topic[len(self._topics.camera) :]
                message = self._cameras.parse(camera_id, payload)
                problems = message.problems
                self._presence.seen(camera_id, message.detect_ms, len(message.detections))
                self._scenes.boxes.seen(camera_id, message.detect_ms, message.detections)
                self._clocks.correct_all(message.camera, message.detections)
                self._detections.add(message.detections, delivery)
            elif topic.startswith(self._topics.scene):
                self._scene_messages.inc()
                update, problems = self._scenes.parse(topic[len(self._topics.scene) :], payload)
                self._scene_flow.add(update, delivery)
            elif topic.startswith(self._topics.region):
                self._region_messages.inc()
                scene_id, region_id, _ = topic[len(self._topics.region) :].split("/")
                update, problems = self._scenes.parse_event(scene_id, region_id, payload)
                if update.objects:
                    self._scene_flow.add(update, delivery)
        except Refused as refused:
            problems = [refused.problem]
        except Exception as error:  # a message that we have no answer for costs itself, not the process
            _log.exception("message_failed", topic=topic, size=len(payload))
            problems = [Problem("INTERNAL", "", f"could not be read ({type(error).__name__})")]
        if problems:
            self._dead_letters.refuse(topic, problems, payload)
        self._acknowledgements.done(delivery)
        _PARSE_SECONDS.inc(time.perf_counter() - started)
