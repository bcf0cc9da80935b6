"""The services that history asks, with answers that a test chooses. The real ones are asked in tests/e2e."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from poi.v1 import (
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)


class Neighbours(
    embedding_pb2_grpc.EmbeddingServiceServicer, poi_pb2_grpc.PoiServiceServicer, region_pb2_grpc.RegionServiceServicer
):
    """EmbeddingService, PoiService and RegionService in one server."""

    def __init__(self) -> None:
        self.target = ""
        self.face: list[common_pb2.Embedding] = []
        """Of the one face on an image that `faces` does not have; FAILED_PRECONDITION when empty."""
        self.faces: dict[bytes, list[common_pb2.Embedding]] = {}
        """The same by image."""
        self.pois: dict[str, poi_pb2.Poi] = {}
        self.visits: list[region_pb2.Visit] = []
        self.visit_requests: list[region_pb2.ListVisitsRequest] = []
        self.visits_ready = asyncio.Event()
        """Visits are answered once it is set, as it is at first."""
        self.visits_ready.set()

    async def DetectFaces(
        self, request: embedding_pb2.DetectFacesRequest, context: Any
    ) -> embedding_pb2.DetectFacesResponse:
        face = self.faces.get(request.image, self.face)
        if not face:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no face")
        wanted = [one for one in face if one.alignment in request.options.alignments]
        return embedding_pb2.DetectFacesResponse(faces=[embedding_pb2.Face(embeddings=wanted)])

    async def GetPoi(self, request: poi_pb2.GetPoiRequest, context: Any) -> poi_pb2.Poi:
        if request.name not in self.pois:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such person of interest")
        poi = poi_pb2.Poi()
        poi.CopyFrom(self.pois[request.name])
        if request.view != poi_pb2.POI_VIEW_FULL:
            for reference in poi.references:
                reference.ClearField("embeddings")
        return poi

    async def ListVisits(self, request: region_pb2.ListVisitsRequest, context: Any) -> region_pb2.ListVisitsResponse:
        self.visit_requests.append(request)
        await self.visits_ready.wait()
        start = int(request.page_token or 0)
        end = start + request.page_size
        more = str(end) if end < len(self.visits) else ""
        return region_pb2.ListVisitsResponse(visits=self.visits[start:end], next_page_token=more)


@asynccontextmanager
async def neighbours() -> AsyncIterator[Neighbours]:
    """Serves them on a free port."""
    servicer = Neighbours()  # type: ignore[abstract]  # only in the stubs: what is not here is UNIMPLEMENTED
    server = grpc.aio.server()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    poi_pb2_grpc.add_PoiServiceServicer_to_server(servicer, server)
    region_pb2_grpc.add_RegionServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(0)
