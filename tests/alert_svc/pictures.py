"""A history with somebody in it, match's references, and alert servers that make pictures of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2, history_pb2, match_pb2, poi_pb2, poi_pb2_grpc

from alert_svc.evidence.sources import Sources
from mesh import redis
from mesh.channels import connect
from mesh.local import Redis, Service
from tests.alert_svc.support import connected
from tests.history_svc.client import STORE, Client, detection, moment

MATCH, ENTRY, EXIT, EVIDENCE = (
    history_pb2.FRAME_KIND_MATCH,
    history_pb2.FRAME_KIND_ENTRY,
    history_pb2.FRAME_KIND_EXIT,
    history_pb2.FRAME_KIND_EVIDENCE,
)
POI = f"{STORE}/pois/p1"
REFERENCE = f"{POI}/references/r1"
RED, GREEN, BLUE = (0, 0, 220), (0, 220, 0), (220, 0, 0)
FACE = common_pb2.BoundingBox(x=600, y=100, width=120, height=170)
"""As `tests.support.detection` has it."""


def scene(background: tuple[int, int, int], face: tuple[int, int, int]) -> bytes:
    """A camera's frame, 1280 x 720, with a face of one colour."""
    image = np.full((720, 1280, 3), background, np.uint8)
    cv2.rectangle(image, (600, 100), (720, 270), face, -1)
    return bytes(cv2.imencode(".jpg", image)[1])


def pixels(image: bytes) -> Any:
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


class References(poi_pb2_grpc.PoiServiceServicer):
    """PoiService, as far as its pictures go."""

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.is_away = False

    def GetReferenceImage(self, request: poi_pb2.GetReferenceImageRequest, context: Any) -> poi_pb2.ReferenceImage:
        if self.is_away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if request.name not in self.images:
            context.abort(grpc.StatusCode.NOT_FOUND, "no picture")
        return poi_pb2.ReferenceImage(
            name=request.name,
            image=self.images[request.name],
            face_box=common_pb2.BoundingBox(x=600, y=100, width=120, height=170),
        )


class Studio(NamedTuple):
    """The servers."""

    alert: Service
    history: Service
    references: References


class Scene:
    """A running alert server, the history and the references it asks."""

    def __init__(self, alert: Service, history: Service, references: References, client: Client, stub: Any) -> None:
        self.alert, self.history, self.references, self.client = alert, history, references, client
        self.alerts: alert_pb2_grpc.AlertServiceAsyncStub = stub

    async def appear(self) -> str:
        """Somebody comes into view, another one each time; the name of the appearance."""
        return (await self.client.append(detection(object_id=uuid.uuid4().hex))).stored[0].appearance

    async def film(
        self, appearance: str, image: bytes, at: float = 0.1, kind: history_pb2.FrameKind.ValueType = MATCH
    ) -> str:
        """A frame of it arrives; its name."""
        upload = history_pb2.FrameUpload(
            camera=f"{STORE}/cameras/Camera_01",
            capture_time=moment(at),
            kind=kind,
            image=image,
            appearances=[appearance],
        )
        return (await self.client.append(frames=[upload])).frames[0]

    async def raise_alert(self, appearance: str, reference: str = REFERENCE, poi: str = POI) -> str:
        """An alert about it; its name."""
        request = alert_pb2.RaiseAlertsRequest(parent=STORE, candidates=[self.candidate(appearance, reference, poi)])
        return (await self.alerts.RaiseAlerts(request)).alerts[0].alert

    def candidate(self, appearance: str, reference: str = REFERENCE, poi: str = POI) -> alert_pb2.AlertCandidate:
        return alert_pb2.AlertCandidate(
            match=match_pb2.Match(
                poi=poi,
                display_name="Somebody",
                severity=common_pb2.SEVERITY_HIGH,
                similarity=0.7,
                threshold=0.5,
                reference=reference,
            ),
            appearance=appearance,
            camera=f"{STORE}/cameras/Camera_01",
            detection_id="d" * 32,
            detect_time=moment(0),
            person_box=common_pb2.BoundingBox(x=500, y=20, width=350, height=500),
            face_box=FACE,
        )

    async def get(self, name: str) -> alert_pb2.Alert:
        return await self.alerts.GetAlert(alert_pb2.GetAlertRequest(name=name))

    async def shown(self, name: str, seconds: float = 60.0) -> alert_pb2.Alert:
        """The alert, once it has its pictures."""
        request = alert_pb2.StreamAlertsRequest(parent=STORE, start_time=Timestamp(seconds=int(time.time()) - 3000))
        async with asyncio.timeout(seconds):
            async for response in self.alerts.StreamAlerts(request):
                if response.event == alert_pb2.ALERT_EVENT_EVIDENCE and response.alert.name == name:
                    return response.alert
        raise AssertionError("the stream ended")

    async def frame(self, name: str) -> bytes:
        request = history_pb2.GetFrameRequest(name=name)
        return b"".join([part.data async for part in self.client.stub.GetFrame(request)])

    async def frames(self, appearance: str) -> list[history_pb2.Frame]:
        request = history_pb2.GetAppearanceRequest(name=appearance)
        return list((await self.client.stub.GetAppearance(request)).frames)

    @asynccontextmanager
    async def parts(self, of: Studio, database: int) -> AsyncIterator[tuple[redis.Redis, Sources]]:
        """What a maker of pictures is made of, with an empty Redis."""
        client = redis.connect(of.alert.env["POI_REDIS_URL"].rpartition("/")[0] + f"/{database}")
        channels = [connect(of.alert.env[f"POI_{name}_TARGET"]) for name in ("HISTORY", "MATCH")]
        try:
            yield client, Sources(*channels)
        finally:
            await client.aclose()
            for channel in channels:
                await channel.close()

    async def logged(self, event: str, name: str, seconds: float = 60.0) -> str:
        """The line that the alert server has logged of an alert."""
        async with asyncio.timeout(seconds):
            while True:
                for line in self.alert.log_path.read_text().splitlines():
                    if f'"{event}"' in line and name in line:
                        return line
                await asyncio.sleep(0.05)


@contextmanager
def studio(own_redis: Redis, directory: Path, **env: str) -> Iterator[Studio]:
    """Starts what is needed."""
    references = References()  # type: ignore[abstract]  # only in the stubs: what is not here is UNIMPLEMENTED
    references.images[REFERENCE] = scene((40, 40, 40), BLUE)
    match = grpc.server(ThreadPoolExecutor(4))
    poi_pb2_grpc.add_PoiServiceServicer_to_server(references, match)
    port = match.add_insecure_port("127.0.0.1:0")
    match.start()
    history = Service(
        "history_svc",
        directory,
        {
            "POI_HISTORY_DATA_DIR": str(directory / "data"),
            "POI_HISTORY_REGION_TIMEOUT": "0.05",
            "POI_DRAIN_SECONDS": "0",
        },
    )
    settings = {
        "POI_REDIS_URL": own_redis.url,
        "POI_HISTORY_TARGET": history.target,
        "POI_MATCH_TARGET": f"127.0.0.1:{port}",
        "POI_HEARTBEAT_SECONDS": "0.2",
        "POI_DRAIN_SECONDS": "0",
        "POI_ALERT_DELIVERY_LEASE_SECONDS": "2",
        **env,
    }
    alert = Service("alert_svc", directory, settings)
    with ExitStack() as undo:
        undo.callback(match.stop, None)
        for server in (history, alert):
            undo.callback(server.stop)
            server.spawn()
        for server in (history, alert):
            server.wait_ready()
        yield Studio(alert, history, references)


@asynccontextmanager
async def a_scene(of: Studio) -> AsyncIterator[Scene]:
    """A client of all of it, which is started again where a test before ended it."""
    for server in (of.alert, of.history):
        if not server.running:
            await asyncio.to_thread(server.start)
    of.references.is_away = False
    async with Client(of.history.target) as client, connected(of.alert.target) as stub:
        yield Scene(of.alert, of.history, of.references, client, stub)
