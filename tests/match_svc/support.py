"""A replica of the match service in this process, and what its tests send to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from poi.v1 import common_pb2, match_pb2, match_pb2_grpc, poi_pb2, poi_pb2_grpc, watchlist_pb2_grpc
from prometheus_client import REGISTRY

from match_svc.__main__ import assemble
from match_svc.settings import MatchServerSettings
from mesh.channels import connect
from mesh.server import Server
from tests.support import PATIENCE, embedding, valid_poi
from tests.support.vectors import Vector

Alignment: TypeAlias = "common_pb2.Alignment.ValueType"
STORE = "stores/store-1"


@dataclass
class Replica:
    """One server and stubs of its services."""

    server: Server
    pois: "poi_pb2_grpc.PoiServiceAsyncStub"
    match: "match_pb2_grpc.MatchServiceAsyncStub"
    health: Any
    watchlists: "watchlist_pb2_grpc.WatchlistServiceAsyncStub"

    async def enrol(
        self, poi_id: str, *faces: Vector, alignment: Alignment = common_pb2.ALIGNMENT_ALIGNED, **profile: Any
    ) -> poi_pb2.Poi:
        """Enrol a person from embeddings, whoever they look like."""
        return await self.pois.CreatePoi(
            poi_pb2.CreatePoiRequest(
                parent=STORE,
                poi_id=poi_id,
                poi=valid_poi(**{"display_name": poi_id, **profile}),
                embeddings=[embedding(face, alignment=alignment) for face in faces],
                allow_duplicate=True,
                allow_disagreement=True,
            )
        )

    async def who(self, face: Vector, alignment: Alignment = common_pb2.ALIGNMENT_ALIGNED) -> list[str]:
        """Ids of the persons that a face matches, best first."""
        return [match.poi.rpartition("/")[2] for match in await self.matches(face, alignment)]

    async def matches(
        self, face: Vector, alignment: Alignment = common_pb2.ALIGNMENT_ALIGNED
    ) -> Sequence[match_pb2.Match]:
        """What a face matches, best first."""
        response = await self.match.MatchFaces(
            match_pb2.MatchFacesRequest(parent=STORE, embeddings=[embedding(face, alignment=alignment)])
        )
        return response.faces[0].matches

    async def stream(self, *batches: Iterable[common_pb2.Detection]) -> list[match_pb2.MatchDetectionsResponse]:
        """One stream of these batches; their answers."""
        requests = [
            match_pb2.MatchDetectionsRequest(parent=STORE, batch_id=number, detections=batch)
            for number, batch in enumerate(batches)
        ]
        return [response async for response in self.match.MatchDetections(iter(requests))]

    async def seen(self, *detections: common_pb2.Detection) -> list[list[tuple[str, float]]]:
        """(person, similarity rounded to 3 digits) of each detection, sent as one batch."""
        (response,) = await self.stream(detections)
        assert not response.errors
        found = {result.detection_id: result.matches for result in response.results}
        return [
            [
                (match.poi.rpartition("/")[2], round(match.similarity, 3))
                for match in found.get(detection.detection_id, ())
            ]
            for detection in detections
        ]

    async def status(self) -> match_pb2.GalleryStatus:
        """What it says of its gallery and of all replicas."""
        return await self.match.GetGalleryStatus(match_pb2.GetGalleryStatusRequest(name=f"{STORE}/galleryStatus"))

    async def serving(self) -> bool:
        """What health says of MatchService."""
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service="poi.v1.MatchService"))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def loaded(self) -> None:
        """Return when it is serving."""
        async for answer in self.health.Watch(health_pb2.HealthCheckRequest(service="poi.v1.MatchService")):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


@asynccontextmanager
async def replica(redis_url: str, **settings: Any) -> AsyncIterator[Replica]:
    """A running replica, loaded."""
    async with unloaded_replica(redis_url, **settings) as running:
        await running.loaded()
        yield running


@asynccontextmanager
async def unloaded_replica(redis_url: str, **settings: Any) -> AsyncIterator[Replica]:
    """A running replica that may still be loading."""
    chosen = MatchServerSettings(
        **{
            "redis_url": redis_url,
            "listen": "127.0.0.1:0",
            "metrics_listen": "",
            "drain_seconds": 0.0,
            # All replicas of a test are there: one that is slow is waited for, like the changes themselves.
            "confirm_seconds": 60.0,
            "write_wait_seconds": 60.0,
            "replica_seconds": 60.0,
            "embed_timeout": 60.0,
            **settings,
        }
    )
    async with assemble(chosen) as server:
        channel = connect(server.address)
        try:
            yield stubs(server, channel)
        finally:
            await channel.close()


def stubs(server: Any, channel: grpc.aio.Channel) -> Replica:
    """A replica's services through a channel."""
    return Replica(
        server,
        poi_pb2_grpc.PoiServiceStub(channel),
        match_pb2_grpc.MatchServiceStub(channel),
        health_pb2_grpc.HealthStub(channel),  # type: ignore[no-untyped-call]
        watchlist_pb2_grpc.WatchlistServiceStub(channel),
    )


async def becomes(expected: object, ask: Callable[[], Awaitable[object]], within: float = PATIENCE) -> None:
    """Return when `ask` gives what is expected; fail when it does not in so many seconds."""
    answer: object = None
    try:
        async with asyncio.timeout(within):
            while True:
                answer = await ask()
                if answer == expected:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"still {answer!r} after {within} s") from None


async def refused(call: Awaitable[Any]) -> tuple[str, str, set[str]]:
    """(status code, reason, violated fields) of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(raised.value)  # type: ignore[no-untyped-call]
    assert status is not None, raised.value
    return raised.value.code().name, *reason_and_fields(status)


def reason_and_fields(status: status_pb2.Status) -> tuple[str, set[str]]:
    """The reason, and the fields that are wrong, of a status."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return info.reason, {violation.field for violation in bad.field_violations}


def counter(name: str) -> float:
    """A metric of this process now."""
    return REGISTRY.get_sample_value(name) or 0.0
