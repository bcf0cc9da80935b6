"""All that stands between the broker and the services, with what it hands on caught and held against their rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson
from poi.v1 import common_pb2, history_pb2, region_pb2

from history_svc.intake import Intake as HistoryIntake
from history_svc.region.messages import read_update
from ingest_svc.acknowledgements import Acknowledgements, Delivery
from ingest_svc.cameras import CameraParser
from ingest_svc.clocks import CameraClocks
from ingest_svc.dead_letters import DeadLetters
from ingest_svc.detections import DetectionFlow
from ingest_svc.evidence import Evidence
from ingest_svc.intake import Intake, Topics
from ingest_svc.mqtt import Token
from ingest_svc.presence import Presence
from ingest_svc.rejections import Problem
from ingest_svc.scene_flow import SceneFlow
from ingest_svc.scenes import SceneParser
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.redis import Redis
from tests.fuzz.target import Finding

STORE = "store-1"
PARENT = f"stores/{STORE}"
IDS = ("Camera_01", "scene-1", "a", "x" * 128, "x" * 129, "", "no id", "é", "-", "..", "a/b")
"""What stands in topics."""
OBJECT_IDS = 160
"""Characters of a camera's object id once ingest has lengthened it; region takes no more in a track."""
_LATEST_NS = 253_402_300_799_999_999_999  # what a Timestamp can say
_NO_REDIS = cast(Redis, None)


class Street:
    """Takes messages as from the broker. Raises Finding where something comes through that the services refuse."""

    def __init__(self) -> None:
        self.topics = Topics("scenescape")
        self.frames: list[history_pb2.FrameUpload] = []
        """Those that were handed to history, oldest first."""
        self._acknowledged: list[Token] = []
        self._found: list[Finding] = []
        self._history = HistoryIntake(STORE, FACE_MODEL, DIMENSIONS[FACE_MODEL], 6 << 20)
        acknowledgements = Acknowledgements(self._acknowledged.append)
        letters = _Letters(_NO_REDIS, STORE, lambda *_: True, "dead-letters")
        clocks = CameraClocks(
            lambda camera, problem: letters.refuse(camera, [problem], None), most_waiting_seconds=3600
        )
        self.evidence = Evidence(
            STORE,
            cast(Any, self),
            ask=lambda _: True,
            wait_seconds=0.0,
            on_problem=lambda camera, problem: letters.refuse(camera, [problem], None),
            correct=clocks.correct,
        )
        self._intake = Intake(
            self.topics,
            CameraParser(STORE, model=FACE_MODEL, aligned_cameras=frozenset(("a",)), max_objects=500),
            SceneParser(STORE, max_objects=500),
            detections=cast(DetectionFlow, _Flow(self._check_detections, self._found)),
            scene_flow=cast(SceneFlow, _Flow(self._check_update, self._found)),
            evidence=self.evidence,
            acknowledgements=acknowledgements,
            presence=Presence(_NO_REDIS, STORE, "fuzz"),
            dead_letters=letters,
            clocks=clocks,
            max_payload_bytes=4_000_000,
        )

    def take(self, topic: str, payload: bytes) -> None:
        """One message, which must be acknowledged whatever it is."""
        self._acknowledged.clear()
        self._found.clear()
        self._intake.take(topic, payload, Token(1, 1, 1))
        if self._found:  # raised where the message is read it would be taken for one that cannot be read
            raise self._found[0]
        if len(self._acknowledged) != 1:
            raise Finding(f"acknowledged {len(self._acknowledged)} times")

    async def send(self, request: history_pb2.AppendDetectionsRequest) -> history_pb2.AppendDetectionsResponse:
        """History's stream: evidence comes here."""
        self.frames += request.frames
        batch = self._history.read(request, -_LATEST_NS, _LATEST_NS)  # a wrong clock is refused by history alone
        for error in batch.frame_errors:
            if "JPEG" not in error.status.message:
                raise Finding(f"history refuses a frame: {error.status}")
        return history_pb2.AppendDetectionsResponse(frames=[""] * len(request.frames), frame_errors=batch.frame_errors)

    def _check_detections(self, detections: Sequence[common_pb2.Detection]) -> None:
        if len(detections) > 500:
            raise Finding(f"{len(detections)} detections of one message")
        for start in range(0, len(detections), 256):
            part = detections[start : start + 256]
            request = history_pb2.AppendDetectionsRequest(parent=PARENT, detections=part)
            batch = self._history.read(request, -_LATEST_NS, _LATEST_NS)
            if batch.errors:
                raise Finding(f"history refuses a detection: {batch.errors[0].status}")
        for one in detections:
            if not 0 < len(one.object_id) <= OBJECT_IDS:
                raise Finding(f"an object id of {len(one.object_id)} characters")
            if not (0 <= one.person_confidence <= 1 and 0 <= one.face_confidence <= 1):
                raise Finding("a confidence beyond 0 to 1")
        if len({one.detection_id for one in detections}) != len(detections):
            raise Finding("two detections of one message have one id")

    def _check_update(self, update: region_pb2.SceneUpdate) -> None:
        if update.update_time.ToMilliseconds() <= 0:
            return  # the region service answers it with an error of its own: a clock that was never set
        try:
            read_update(STORE, update, _LATEST_NS, 0)
        except Exception as error:
            raise Finding(f"region refuses an update: {error}") from error
        region_pb2.RecordSceneUpdatesRequest(parent=PARENT, updates=[update]).SerializeToString()


class _Flow:
    """Checks what is handed on and calls it done."""

    def __init__(self, check: Any, found: list[Finding]) -> None:
        self._check, self._found = check, found

    def add(self, content: Any, delivery: Delivery) -> None:
        try:
            self._check(content)
        except Finding as found:
            self._found.append(found)


class _Letters(DeadLetters):
    """Raises Finding for what nobody expected, and for what Redis or a reader could not take."""

    def refuse(self, topic: str, problems: Sequence[Problem], payload: bytes | None) -> None:
        super().refuse(topic, problems, payload)
        while not self._queue.empty():
            record = self._queue.get_nowait().fields()
            if record["reason"] == "INTERNAL":
                raise Finding(f"a message that nobody can read: {problems}")
            orjson.dumps(record)  # as text, which a lone surrogate is not
            if len(record["message"]) > 1000 or len(record["field"]) > 1000:
                raise Finding(f"a long explanation: {record}")
