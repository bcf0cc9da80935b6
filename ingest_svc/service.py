"""IngestService: tells how messages are taken in."""

from __future__ import annotations

import time
from typing import Any

import grpc
from poi.v1 import ingest_pb2, ingest_pb2_grpc

from ingest_svc.acknowledgements import Acknowledgements
from ingest_svc.dead_letters import DeadLetters
from ingest_svc.detections import DetectionFlow
from ingest_svc.evidence import Evidence
from ingest_svc.intake import Intake
from ingest_svc.mqtt import Mqtt
from ingest_svc.presence import Presence
from ingest_svc.scene_flow import SceneFlow
from mesh import names, pages
from mesh.errors import NotFound

SERVICE = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class IngestService(ingest_pb2_grpc.IngestServiceServicer):
    """Answers from the parts of this server."""

    def __init__(
        self,
        store: str,
        *,
        mqtt: Mqtt,
        intake: Intake,
        acknowledgements: Acknowledgements,
        detections: DetectionFlow,
        scenes: SceneFlow,
        evidence: Evidence | None,
        presence: Presence,
        dead_letters: DeadLetters,
    ) -> None:
        self._parent = names.store(store)
        self._mqtt = mqtt
        self._intake = intake
        self._acknowledgements = acknowledgements
        self._detections = detections
        self._scenes = scenes
        self._evidence = evidence
        self._presence = presence
        self._dead_letters = dead_letters
        self._start_ms = time.time_ns() // 1_000_000

    async def GetIngestStatus(
        self, request: ingest_pb2.GetIngestStatusRequest, context: Context
    ) -> ingest_pb2.IngestStatus:
        """The state of this server."""
        self._mine(request.name.removesuffix("/ingestStatus"))
        status = ingest_pb2.IngestStatus(
            name=f"{self._parent}/ingestStatus",
            connected=self._mqtt.connected,
            protocol=self._mqtt.protocol,
            received_messages=self._intake.messages,
            acknowledged_messages=self._acknowledgements.count,
            detections=self._detections.detections,
            alerts=self._detections.raised_alerts,
            rejections=self._dead_letters.count,
            pending_messages=self._acknowledgements.pending,
            scene_updates=self._scenes.updates,
            frames=self._evidence.frames if self._evidence else 0,
        )
        status.start_time.FromMilliseconds(self._start_ms)
        status.oldest_pending.FromMilliseconds(round(self._acknowledgements.oldest_seconds * 1000))
        return status

    async def ListCameras(
        self, request: ingest_pb2.ListCamerasRequest, context: Context
    ) -> ingest_pb2.ListCamerasResponse:
        """The cameras that sent something."""
        self._mine(request.parent)
        size = pages.clamp(request.page_size, 50, 1000)
        after = pages.decode(request.page_token, request, after=pages.text).get("after", "")
        response = ingest_pb2.ListCamerasResponse()
        async for camera in self._presence.cameras():
            if camera.name <= after:
                continue
            if len(response.cameras) == size:
                response.next_page_token = pages.encode({"after": response.cameras[-1].name}, request)
                break
            response.cameras.append(camera)
        return response

    async def ListRejections(
        self, request: ingest_pb2.ListRejectionsRequest, context: Context
    ) -> ingest_pb2.ListRejectionsResponse:
        """What was refused."""
        self._mine(request.parent)
        size = pages.clamp(request.page_size, 50, 1000)
        before = pages.decode(request.page_token, request, before=pages.text).get("before", "")
        found = await self._dead_letters.page(before, size + 1)
        response = ingest_pb2.ListRejectionsResponse(rejections=found[:size])
        if len(found) > size:
            last = response.rejections[-1].name.rpartition("/")[2]
            response.next_page_token = pages.encode({"before": last}, request)
        return response

    def _mine(self, store: str) -> None:
        if store != self._parent:
            raise NotFound(store)
