"""A client of running match servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Self

from grpc_health.v1 import health_pb2, health_pb2_grpc
from poi.v1 import match_pb2, match_pb2_grpc, poi_pb2, poi_pb2_grpc

from bench.enrolment import synthetic_poi
from bench.match.data import STORE, Vectors, embedding
from mesh.channels import connect

_WINDOW = 8
"""Batches under way on a stream, as ingest has them."""
_SERVICE = "poi.v1.MatchService"
_PARENT = f"stores/{STORE}"


class Client:
    """One server's services. An async context manager."""

    def __init__(self, target: str) -> None:
        self._channel = connect(target)
        self.match: match_pb2_grpc.MatchServiceAsyncStub = match_pb2_grpc.MatchServiceStub(self._channel)
        self._pois: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def serving(self) -> None:
        """Return when it is SERVING."""
        async for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=_SERVICE)):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return

    async def status(self) -> match_pb2.GalleryStatus:
        """Of its gallery."""
        return await self.match.GetGalleryStatus(match_pb2.GetGalleryStatusRequest(name=f"{_PARENT}/galleryStatus"))

    async def folded(self, seconds: float) -> match_pb2.GalleryStatus:
        """Return when its index is quantised, or after so many seconds."""
        until = time.perf_counter() + seconds
        while True:
            status = await self.status()
            if status.index_kind == match_pb2.INDEX_KIND_QUANTISED or time.perf_counter() > until:
                return status
            await asyncio.sleep(0.1)

    async def rate(self, requests: Sequence[match_pb2.MatchDetectionsRequest], seconds: float) -> float:
        """Faces a second on one stream that always has some batches under way."""
        free = asyncio.Semaphore(_WINDOW)
        started, until = 0.0, time.perf_counter() + seconds

        async def source() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
            at = 0
            while time.perf_counter() < until:
                await free.acquire()
                yield requests[at % len(requests)]
                at += 1

        count = 0
        async for response in self.match.MatchDetections(source()):
            if response.errors:
                raise RuntimeError(f"{len(response.errors)} detections were refused")
            if not started:
                started = time.perf_counter()  # the first answer warms up
            else:
                count += len(requests[0].detections)
            free.release()
        return count / (time.perf_counter() - started)

    async def who(self, faces: Vectors) -> list[set[int]]:
        """The numbers of the people that each face matches."""
        request = match_pb2.MatchFacesRequest(
            parent=_PARENT, embeddings=[embedding(face) for face in faces], max_matches=100
        )
        answer = await self.match.MatchFaces(request, timeout=30.0)
        return [{int(match.poi.rpartition("/p")[2]) for match in face.matches} for face in answer.faces]

    async def one_face_ms(self, faces: Vectors) -> list[float]:
        """How long each took, alone, ascending."""
        taken = []
        for face in faces:
            request = match_pb2.MatchFacesRequest(parent=_PARENT, embeddings=[embedding(face)])
            started = time.perf_counter()
            await self.match.MatchFaces(request)
            taken.append((time.perf_counter() - started) * 1000)
        return sorted(taken)

    async def enrol(self, number: int, face: Vectors) -> None:
        """A new person of this number."""
        await self._pois.CreatePoi(
            poi_pb2.CreatePoiRequest(
                parent=_PARENT,
                poi_id=f"p{number}",
                poi=synthetic_poi("new"),
                embeddings=[embedding(face)],
                allow_duplicate=True,
            )
        )

    async def delete(self, number: int) -> None:
        """The person of this number."""
        await self._pois.DeletePoi(poi_pb2.DeletePoiRequest(name=f"{_PARENT}/pois/p{number}"))


async def enrolled_ms(replicas: Sequence[Client], faces: Vectors, first: int) -> tuple[list[float], list[float]]:
    """From the call to enrol until every replica matches, of each face; and what deletions took. Ascending."""
    enrolled, deleted = [], []
    for number, face in enumerate(faces, first):
        started = time.perf_counter()

        async def found(at: Client, number: int = number, face: Vectors = face) -> None:
            while number not in (await at.who(face[None]))[0]:
                pass

        await asyncio.gather(replicas[0].enrol(number, face), *map(found, replicas))
        enrolled.append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        await replicas[0].delete(number)
        deleted.append((time.perf_counter() - started) * 1000)
        for at in replicas:
            if number in (await at.who(face[None]))[0]:
                raise RuntimeError("a deleted person was matched")
    return sorted(enrolled), sorted(deleted)
