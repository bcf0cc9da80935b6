"""The real networks, frames of the sample clips, and the service in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import av
import cv2
import numpy as np
import pytest
from poi.v1 import embedding_pb2_grpc

from embed_svc.faces import FaceFinder
from embed_svc.images import Pixels
from embed_svc.models import Task, locate, manifest
from embed_svc.runtime import Network, Runtime
from embed_svc.service import SERVICE, EmbeddingServicer
from embed_svc.settings import EmbedSettings
from embed_svc.work import Workers
from mesh.channels import connect
from mesh.server import Server

WOMAN = "head-pose-face-detection-female.gif"
MAN = "head-pose-face-detection-male.gif"
BOTH = "head-pose-face-detection-female-and-male.gif"
AISLE = "store-aisle-detection.gif"

Stub: TypeAlias = "embedding_pb2_grpc.EmbeddingServiceAsyncStub"  # a class in the type stubs only
Frames = Callable[[str], list[Pixels]]
"""Every second frame of a clip by its file name."""


def jpeg(image: Any) -> bytes:
    """The image as a good JPEG."""
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


@pytest.fixture(scope="session")
def networks(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Network]:
    directory, runtime = locate(models_dir), Runtime(tmp_path_factory.mktemp("openvino"))
    return {task: runtime.load(directory / manifest().graph(task).file) for task in Task}


@pytest.fixture(scope="session")
def finder(networks: dict[Task, Network]) -> FaceFinder:
    return FaceFinder(networks[Task.DETECTION], networks[Task.LANDMARKS], networks[Task.EMBEDDING])


@pytest.fixture(scope="session")
def frames(shared_dir: Path) -> Frames:
    @cache
    def read(clip: str) -> list[Pixels]:
        path = shared_dir / "media" / clip
        if not path.is_file():
            pytest.skip(f"shared data absent: no {clip}")
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
            return [image.astype(np.uint8, copy=False) for image in decoded[::2]]

    return read


@dataclass
class Served:
    """A running service and its client."""

    stub: Stub
    server: Server


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(finder: FaceFinder) -> Serve:
    """A factory of running services; `finder` may be another one, the rest are settings."""

    @asynccontextmanager
    async def run(*, finder: Any = finder, **settings: Any) -> AsyncIterator[Served]:
        chosen = EmbedSettings(listen="127.0.0.1:0", metrics_listen="", drain_seconds=0, grace_seconds=2, **settings)
        server = Server(chosen)
        workers = Workers(chosen.threads or 4, chosen.max_waiting)
        server.on_stop(workers.close)
        servicer = EmbeddingServicer(finder, manifest(), workers, chosen, server.draining)
        server.add(embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, servicer, SERVICE)
        async with server, connect(server.address, default_timeout=60) as channel:
            yield Served(embedding_pb2_grpc.EmbeddingServiceStub(channel), server)

    return run


@pytest.fixture
async def stub(serve: Serve) -> AsyncIterator[Stub]:
    """A client of a service with the default settings."""
    async with serve() as served:
        yield served.stub


async def gather(*awaitables: Any) -> list[Any]:
    """asyncio.gather for the awaitables of grpc.aio, which are no coroutines."""

    async def wait(one: Any) -> Any:
        return await one

    return list(await asyncio.gather(*map(wait, awaitables)))
