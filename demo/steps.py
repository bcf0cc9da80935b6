"""What the demo does, each step through the contracts that any client uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    common_pb2,
    delivery_pb2,
    delivery_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)

from clients.replay import Replay
from demo.material import Person
from mesh import errors, names
from mesh.auth import Role
from mesh.local import Mesh

_PHOTOS_A_PERSON = 3
_PHOTOS_AT_ONCE = 10
_ENROLLED_FOR = timedelta(days=1)
_TARGET = "desk"
_PURPOSE = "demonstration"
"""Why all this is done."""
_WHO = "demo"
"""Who does all this: in what is recorded, and in the tokens of a mesh that asks for them."""


@dataclass(frozen=True)
class SeenAlert:
    """An alert as it arrived."""

    alert: alert_pb2.Alert
    latency_ms: float | None
    """From the publication of the camera's message to here."""


class Steps:
    """A client of a running mesh, in whatever role a step needs. Use as an async context manager."""

    def __init__(self, mesh: Mesh, store: str) -> None:
        self._mesh = mesh
        self.store = store
        self._parent = names.store(store)
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Steps:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def cameras_are_heard(self) -> None:
        """Returns once ingest has subscribed at the broker. Raises errors.Unavailable after 30 s."""
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(
            self.channel("ingest", Role.OPERATOR)
        )
        request = ingest_pb2.GetIngestStatusRequest(name=f"{self._parent}/ingestStatus")
        for _ in range(300):
            if (await stub.GetIngestStatus(request)).connected:
                return
            await asyncio.sleep(0.1)
        raise errors.Unavailable(f"ingest is not connected to the broker at {self._mesh.mqtt_url}: is it there?")

    async def enrol(self, person: Person) -> tuple[poi_pb2.Poi, tuple[bytes, ...]]:
        """Enrols a person from the best photos, and gives those."""
        photos = await self._best(person.photos) if person.photos else ()
        request = poi_pb2.CreatePoiRequest(
            parent=self._parent,
            poi_id=person.poi_id,
            poi=_described(person.display_name, person.severity),
            images=photos,
            embeddings=person.embeddings,
        )
        stub: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(self.channel("match", Role.ENROLLER))
        try:
            return await stub.CreatePoi(request, timeout=30), photos
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise errors.from_rpc(error) from None
            return await stub.GetPoi(poi_pb2.GetPoiRequest(name=f"{self._parent}/pois/{person.poi_id}")), photos

    async def alerts(self, replay: Replay, listening: asyncio.Event) -> AsyncIterator[SeenAlert]:
        """Alerts as they arrive. `listening` is set once none can be missed."""
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(
            self.channel("alert", Role.OPERATOR)
        )
        async for response in stub.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=self._parent)):
            listening.set()
            if response.event != alert_pb2.ALERT_EVENT_RAISED:
                continue
            alert = response.alert
            camera = alert.camera.rpartition("/")[2]
            published = replay.published_at.get((camera, alert.detect_time.ToMilliseconds()))
            yield SeenAlert(alert, None if published is None else (time.monotonic() - published) * 1000)

    async def deliver_to(self, url: str, secret: str) -> None:
        """Has alerts posted to a webhook from now on, as the target `desk`."""
        stub: delivery_pb2_grpc.DeliveryServiceAsyncStub = delivery_pb2_grpc.DeliveryServiceStub(
            self.channel("alert", Role.ADMIN)
        )
        webhook = delivery_pb2.WebhookTarget(url=url, secret=secret)
        name = f"{self._parent}/targets/{_TARGET}"
        try:
            await stub.DeleteTarget(delivery_pb2.DeleteTargetRequest(name=name))  # of a demo before this one
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise errors.from_rpc(error) from None
        target = delivery_pb2.Target(display_name="Alarm desk", webhook=webhook)
        await stub.CreateTarget(delivery_pb2.CreateTargetRequest(parent=self._parent, target_id=_TARGET, target=target))

    async def acknowledge(self, alert: alert_pb2.Alert, actor: str, note: str) -> alert_pb2.Alert:
        """Says that somebody looks after an alert."""
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(
            self.channel("alert", Role.OPERATOR, subject=actor)
        )
        return await stub.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=alert.name, actor=actor, note=note))

    async def search(self, person: Person, photo: bytes | None) -> history_pb2.SearchAppearancesResponse:
        """Where the person appeared: by photo where there is one, else by embedding."""
        request = history_pb2.SearchAppearancesRequest(parent=self._parent)
        _say_who(request, person, photo)
        stub: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(
            self.channel("history", Role.ANALYST)
        )
        return await stub.SearchAppearances(request, timeout=30)

    async def journey(self, person: Person, photo: bytes | None) -> history_pb2.GetJourneyResponse:
        """Which way the person went."""
        request = history_pb2.GetJourneyRequest(parent=self._parent)
        _say_who(request.query, person, photo)
        stub: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(
            self.channel("history", Role.ANALYST)
        )
        return await stub.GetJourney(request, timeout=30)

    async def frame(self, name: str) -> bytes:
        """The JPEG of an evidence frame."""
        stub: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(
            self.channel("history", Role.ANALYST)
        )
        return b"".join([part.data async for part in stub.GetFrame(history_pb2.GetFrameRequest(name=name))])

    async def appearances_with_frames(self) -> int:
        """How many appearances have an evidence frame."""
        stub: history_pb2_grpc.HistoryServiceAsyncStub = history_pb2_grpc.HistoryServiceStub(
            self.channel("history", Role.ANALYST)
        )
        response = await stub.ListAppearances(history_pb2.ListAppearancesRequest(parent=self._parent, page_size=1000))
        return sum(1 for appearance in response.appearances if appearance.frames)

    async def pictures(self, wait_seconds: float) -> list[str]:
        """The pictures of all alerts that have one (face, frame and reference), once all do or so long has passed."""
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(
            self.channel("alert", Role.OPERATOR)
        )
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            page = await stub.ListAlerts(alert_pb2.ListAlertsRequest(parent=self._parent, page_size=1000))
            made = [alert.evidence.picture for alert in page.alerts if alert.HasField("evidence")]
            if len(made) == len(page.alerts) or asyncio.get_running_loop().time() > deadline:
                return made
            await asyncio.sleep(0.2)

    async def visits(self) -> list[region_pb2.Visit]:
        """All visits to zones, oldest first."""
        stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(
            self.channel("region", Role.ANALYST)
        )
        response = await stub.ListVisits(region_pb2.ListVisitsRequest(parent=self._parent, page_size=1000))
        return sorted(response.visits, key=lambda visit: (visit.enter_time.ToNanoseconds(), visit.zone))

    async def _best(self, photos: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The photos with the best single face, of those that enrolment takes: asked, without enrolling anybody."""
        stub: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(self.channel("match", Role.ENROLLER))
        rated: list[tuple[float, bytes]] = []
        for start in range(0, len(photos), _PHOTOS_AT_ONCE):
            some = photos[start : start + _PHOTOS_AT_ONCE]
            request = poi_pb2.CreatePoiRequest(
                parent=self._parent, poi=_described("somebody"), images=some, validate_only=True
            )
            report = (await stub.CreatePoi(request, timeout=60)).enrolment_report
            rated += [(face.quality.score, some[face.index]) for face in report.faces if not face.problems]
        if not rated:
            raise errors.FailedPrecondition("none of the photos shows exactly one clear face", reason="NO_FACE")
        rated.sort(key=lambda item: item[0], reverse=True)
        return tuple(photo for _, photo in rated[:_PHOTOS_A_PERSON])

    def channel(self, service: str, *roles: Role, subject: str = _WHO) -> grpc.aio.Channel:
        """A channel to a service, of somebody with these roles; closed with the steps."""
        channel = self._mesh.connect(service, *roles, subject=subject, purpose=_PURPOSE)
        self._channels.append(channel)
        return channel


def _described(name: str, severity: common_pb2.Severity.ValueType = common_pb2.SEVERITY_MEDIUM) -> poi_pb2.Poi:
    """Somebody of the demo, with all that enrolment asks for."""
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + _ENROLLED_FOR)
    return poi_pb2.Poi(
        display_name=name,
        severity=severity,
        purpose=_PURPOSE,
        legal_basis=poi_pb2.LEGAL_BASIS_CONSENT,
        enrolled_by=_WHO,
        expire_time=end,
    )


def _say_who(
    query: history_pb2.SearchAppearancesRequest | history_pb2.AppearanceQuery, person: Person, photo: bytes | None
) -> None:
    if photo is not None:
        query.image = photo
    else:
        query.embedding.CopyFrom(person.embeddings[0])
