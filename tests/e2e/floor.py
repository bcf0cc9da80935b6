"""People in front of cameras: messages that a test words itself, and what comes of them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2, poi_pb2

from mesh import names
from tests.e2e.client import Client
from tests.e2e.store import Store
from tests.e2e.story import Window, publish, settle
from tests.support import embedding
from tests.support.vectors import Vector

PERSON_BOX = [500, 20, 350, 500]
FACE_BOX = {"x": 600, "y": 100, "width": 120, "height": 170}

Raised = tuple[str, str, str]
"""(camera, object id, person of interest) of an alert."""


def text(vector: Vector) -> str:
    """An embedding as pipelines write it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def face(vector: Vector) -> dict[str, Any]:
    """A face with an embedding, as cameras tell of it."""
    return {"confidence": 0.99, "bounding_box_px": FACE_BOX, "metadata": {"reid": {"embedding_vector": text(vector)}}}


def person(object_id: object, vector: Vector | None = None) -> dict[str, Any]:
    """Somebody whose face can be seen, where there is a vector."""
    made: dict[str, Any] = {"id": object_id, "confidence": 0.98, "bounding_box_px": PERSON_BOX}
    return made if vector is None else {**made, "sub_objects": {"face": [face(vector)]}}


@dataclass
class Floor:
    """A stretch of event time of a running mesh, with cameras nobody else has."""

    store: Store
    client: Client
    window: Window = field(default_factory=Window)

    @property
    def parent(self) -> str:
        return names.store(self.store.store)

    async def enrol(self, poi_id: str, *faces: Vector, twin: bool = False, **profile: Any) -> poi_pb2.Poi:
        """Enrols somebody from embeddings; `twin`: although somebody looks alike."""
        known: dict[str, Any] = {
            "display_name": poi_id,
            "severity": common_pb2.SEVERITY_MEDIUM,
            "purpose": "test",
            "legal_basis": poi_pb2.LEGAL_BASIS_CONSENT,
            "enrolled_by": "test",
            "expire_time": Timestamp(seconds=int(time.time()) + 3600),
        }
        return await self.client.pois_service.CreatePoi(
            poi_pb2.CreatePoiRequest(
                parent=self.parent,
                poi_id=poi_id,
                poi=poi_pb2.Poi(**{**known, **profile}),
                embeddings=[embedding(one) for one in faces],
                allow_duplicate=twin,
            )
        )

    async def send(self, camera: str, *payloads: dict[str, Any]) -> None:
        """Publishes messages of a camera, in order."""
        topic = f"scenescape/data/camera/{camera}"
        messages = [(topic, orjson.dumps(payload)) for payload in payloads]
        await asyncio.to_thread(publish, self.store.mesh.mqtt_url, messages)

    async def shows(self, camera: str, object_id: object, vectors: Sequence[Vector], *, at: float) -> None:
        """A person passes a camera, `at` seconds into the window, five faces a second."""
        await self.send(
            camera,
            *(
                {"timestamp": self.window.start + at + number / 5, "objects": {"person": [person(object_id, vector)]}}
                for number, vector in enumerate(vectors)
            ),
        )

    async def used(self) -> None:
        """Returns when all that was published before has been used."""
        await settle(self.client, self.store.mesh.mqtt_url, Window())

    async def alerts(self, *cameras: str) -> list[alert_pb2.Alert]:
        """Those of the cameras."""
        wanted = {f"{self.parent}/cameras/{camera}" for camera in cameras}
        return [one for one in await self.client.alerts() if one.camera in wanted]

    async def raised(self, *cameras: str) -> list[Raised]:
        """What the alerts of the cameras say, sorted; an alert of an appearance that history does not have fails."""
        objects = {one.name: one.object_id for one in await self.client.appearances(self.window.interval, *cameras)}
        return sorted(
            (last(one.camera), objects[one.appearance], last(one.match.poi)) for one in await self.alerts(*cameras)
        )


def last(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]


@asynccontextmanager
async def floor(store: Store, window: Window | None = None) -> AsyncIterator[Floor]:
    """A floor of the running store."""
    async with Client(store.mesh, store.store) as client:
        yield Floor(store, client, window or Window())
