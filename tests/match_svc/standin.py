"""An embedding service whose faces are plain colours: the brightness of an image is who is on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import grpc
import numpy as np
from grpc_status import rpc_status
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

from mesh.errors import InvalidArgument, to_status
from tests.support import embedding, unit
from tests.support.vectors import Vector

MODEL = "face-reidentification-retail-0095"
FINE = {"score": 0.9, "face_width_px": 100.0, "sharpness": 0.95, "detector_confidence": 0.99}


def picture(who: int, *, side: int = 240, frame: int = 0) -> bytes:
    """A photo of somebody, 1 to 24; another `frame` is another file of the same face."""
    pixels = np.full((side, side + frame, 3), who * 10, np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


@dataclass
class StandIn(embedding_pb2_grpc.EmbeddingServiceServicer):
    """What it answers can be changed while it runs."""

    model: str = MODEL
    vectors: dict[int, Vector] = field(default_factory=dict)
    """Of persons whose face is not `unit(100 + who)`."""
    qualities: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    """Of persons on whose photos there is not one fine face."""
    calls: int = 0
    target: str = ""
    gate: asyncio.Semaphore | None = None
    """How many more calls are answered, where that is limited."""

    def vector(self, who: int) -> Vector:
        return self.vectors.get(who, unit(100 + who))

    async def DetectFaces(
        self, request: embedding_pb2.DetectFacesRequest, context: Any
    ) -> embedding_pb2.DetectFacesResponse:
        """The faces of one image."""
        if self.gate is not None:
            await self.gate.acquire()
        self.calls += 1
        pixels = cv2.imdecode(np.frombuffer(request.image, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            status = to_status(InvalidArgument(reason="IMAGE_UNDECODABLE"))
            await context.abort_with_status(rpc_status.to_status(status))  # type: ignore[no-untyped-call]
        assert pixels is not None
        height, width = pixels.shape[:2]
        who = round(float(pixels.mean()) / 10)
        response = embedding_pb2.DetectFacesResponse(image_width=width, image_height=height)
        for quality in self.qualities.get(who, [FINE]):
            measured = common_pb2.FaceQuality(**{**FINE, **quality})
            if measured.detector_confidence >= request.options.min_confidence:
                response.faces.add(
                    box=common_pb2.BoundingBox(x=width / 2 - 20, y=height / 2 - 20, width=40, height=40),
                    confidence=measured.detector_confidence,
                    quality=measured,
                    embeddings=[
                        embedding(self.vector(who), model=self.model, alignment=kind)
                        for kind in request.options.alignments
                    ],
                )
        return response


@asynccontextmanager
async def standing_in() -> AsyncIterator[StandIn]:
    """One that runs."""
    servicer = StandIn()  # type: ignore[abstract]
    server = grpc.aio.server()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)
