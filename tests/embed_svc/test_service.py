"""The service through its contract."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

from embed_svc.faces import FaceFinder
from embed_svc.images import Pixels
from mesh import embeddings, errors
from mesh.channels import connect
from tests.conftest import StartService
from tests.embed_svc.conftest import BOTH, MAN, WOMAN, Frames, Serve, Stub, gather, jpeg
from tests.embed_svc.test_images import png_header
from tests.support import until

STORE = "stores/s1"


def detect(image: bytes, *, single_face: bool = False, **options: Any) -> embedding_pb2.DetectFacesRequest:
    return embedding_pb2.DetectFacesRequest(
        parent=STORE, image=image, options=embedding_pb2.FaceOptions(**options), single_face=single_face
    )


async def refusal(call: Any) -> errors.MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc(caught.value)


async def test_a_face_has_everything_the_contract_says(stub: Stub, frames: Frames) -> None:
    image = frames(WOMAN)[4]
    kinds = [common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED]
    answer = await stub.DetectFaces(detect(jpeg(image), alignments=kinds, single_face=True))
    assert (answer.image_width, answer.image_height) == (image.shape[1], image.shape[0])
    (face,) = answer.faces
    assert face.confidence > 0.9
    assert face.box.width > 40
    assert len(face.landmarks) == 5
    assert all(face.box.x <= point.x <= face.box.x + face.box.width for point in face.landmarks)
    assert face.quality.face_width_px == face.box.width
    assert face.quality.detector_confidence == face.confidence
    assert 0.3 < face.quality.score <= 1
    assert 0.9 < face.quality.sharpness <= 1
    assert [embedding.alignment for embedding in face.embeddings] == kinds
    mean, aligned, unaligned = (embeddings.decode(embedding) for embedding in face.embeddings)
    assert min(mean @ aligned, mean @ unaligned) > aligned @ unaligned


async def test_without_options_faces_have_one_aligned_embedding(stub: Stub, frames: Frames) -> None:
    answer = await stub.DetectFaces(embedding_pb2.DetectFacesRequest(parent=STORE, image=jpeg(frames(BOTH)[0])))
    assert len(answer.faces) == 2
    for face in answer.faces:
        assert [embedding.alignment for embedding in face.embeddings] == [common_pb2.ALIGNMENT_ALIGNED]
        embeddings.decode(face.embeddings[0])


async def test_one_face_where_none_or_several_are_is_an_error(stub: Stub, frames: Frames) -> None:
    grey = jpeg(np.full((200, 200, 3), 120, np.uint8))
    assert list((await stub.DetectFaces(detect(grey))).faces) == []
    for image, reason in ((grey, "NO_FACE"), (jpeg(frames(BOTH)[0]), "MULTIPLE_FACES")):
        error = await refusal(stub.DetectFaces(detect(image, single_face=True)))
        assert isinstance(error, errors.FailedPrecondition)
        assert error.reason == reason


async def test_images_that_cannot_be_used_are_refused_and_the_next_one_is_served(stub: Stub, frames: Frames) -> None:
    good = jpeg(frames(MAN)[0])
    for image, reason in (
        (b"no image", "IMAGE_UNDECODABLE"),
        (good[: len(good) // 2], "IMAGE_UNDECODABLE"),
        (png_header(20_000, 20_000), "IMAGE_TOO_LARGE"),
    ):
        error = await refusal(stub.DetectFaces(detect(image)))
        assert isinstance(error, errors.InvalidArgument)
        assert error.reason == reason
        assert [field for field, _ in error.violations] == ["image"]
    assert len((await stub.DetectFaces(detect(good))).faces) == 1


async def test_limits_come_from_the_settings(serve: Serve, frames: Frames) -> None:
    image = frames(MAN)[0]
    pixels = image.shape[0] * image.shape[1]
    async with serve(max_image_pixels=pixels - 1) as served:
        assert (await refusal(served.stub.DetectFaces(detect(jpeg(image))))).reason == "IMAGE_TOO_LARGE"
    async with serve(max_image_bytes=2000) as served:
        assert (await refusal(served.stub.DetectFaces(detect(jpeg(image))))).reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (embedding_pb2.DetectFacesRequest(parent="shops/1", image=b"x"), ["parent"]),
        (embedding_pb2.DetectFacesRequest(parent=STORE), ["image"]),
        (detect(b"x", min_confidence=1.5), ["options.min_confidence"]),
        (detect(b"x", alignments=[0]), ["options.alignments[0]"]),
        (detect(b"x", max_faces=-1), ["options.max_faces"]),
    ],
)
async def test_wrong_fields_are_named(
    stub: Stub, request_: embedding_pb2.DetectFacesRequest, fields: list[str]
) -> None:
    error = await refusal(stub.DetectFaces(request_))
    assert isinstance(error, errors.InvalidArgument)
    assert [field for field, _ in error.violations] == fields


async def test_confidence_and_count_are_respected(stub: Stub, frames: Frames) -> None:
    image = jpeg(frames(BOTH)[0])
    both = [face.confidence for face in (await stub.DetectFaces(detect(image))).faces]
    assert both == sorted(both, reverse=True)
    assert len((await stub.DetectFaces(detect(image, max_faces=1))).faces) == 1
    assert len((await stub.DetectFaces(detect(image, min_confidence=sum(both) / 2))).faces) == 1
    assert len((await stub.DetectFaces(detect(image, min_confidence=0.0))).faces) > 2, (
        "zero means zero, not the default"
    )


def frame(number: int, image: bytes, **fields: Any) -> embedding_pb2.StreamFacesRequest:
    request = embedding_pb2.StreamFacesRequest(parent=STORE, frame_id=f"f{number}", image=image, **fields)
    request.capture_time.FromMilliseconds(1_700_000_000_000 + number)
    return request


async def test_a_bad_frame_is_answered_and_the_stream_goes_on(stub: Stub, frames: Frames) -> None:
    images = [jpeg(image) for image in frames(BOTH)[:8]]
    sent = [frame(number, image) for number, image in enumerate(images)]
    sent[2].image = images[2][:500]
    sent[3].options.min_confidence = 2
    sent[4].image = b""
    sent[5].parent = "nowhere"
    sent[6].image = png_header(30_000, 30_000)
    got = [answer async for answer in stub.StreamFaces(iter(sent))]
    assert [answer.frame_id for answer in got] == [request.frame_id for request in sent]
    assert [answer.capture_time for answer in got] == [request.capture_time for request in sent]
    reasons = {answer.frame_id: errors.from_status(answer.error).reason for answer in got if answer.HasField("error")}
    assert reasons == {
        "f2": "IMAGE_UNDECODABLE",
        "f3": "INVALID_ARGUMENT",
        "f4": "IMAGE_UNDECODABLE",
        "f5": "INVALID_NAME",
        "f6": "IMAGE_TOO_LARGE",
    }
    options = errors.from_status(got[3].error)
    assert isinstance(options, errors.InvalidArgument)
    assert [field for field, _ in options.violations] == ["options.min_confidence"]
    assert all(answer.error.code == code_pb2.INVALID_ARGUMENT for answer in got if answer.frame_id in reasons)
    assert all(bool(answer.faces) == (answer.frame_id not in reasons) for answer in got)


async def test_many_callers_get_what_they_get_alone(stub: Stub, frames: Frames) -> None:
    images = [jpeg(image) for image in [*frames(WOMAN)[:4], *frames(BOTH)[:4]]]
    alone = [await stub.DetectFaces(detect(image)) for image in images]

    async def streamed() -> list[Any]:
        requests = [frame(number, image) for number, image in enumerate(images)]
        return [answer async for answer in stub.StreamFaces(iter(requests))]

    async def called() -> list[Any]:
        return await gather(*(stub.DetectFaces(detect(image)) for image in images))

    for together in await gather(streamed(), called(), streamed(), called()):
        for one, other in zip(together, alone, strict=True):
            assert len(one.faces) == len(other.faces) > 0
            for face, expected in zip(one.faces, other.faces, strict=True):
                assert face.box == expected.box
                found, known = (embeddings.decode(each.embeddings[0]) for each in (face, expected))
                np.testing.assert_allclose(found, known, atol=1e-5)


class Stuck:
    """A finder whose work waits until it is let go."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder, self.go, self.begun = finder, threading.Event(), threading.Semaphore(0)

    def find(self, image: Pixels, **options: Any) -> Any:
        self.begun.release()
        assert self.go.wait(60)
        return self._finder.find(image, **options)


async def test_too_many_at_once_are_told_to_come_back(serve: Serve, finder: FaceFinder, frames: Frames) -> None:
    stuck, image = Stuck(finder), jpeg(frames(MAN)[0])
    async with serve(finder=stuck, threads=1, max_waiting=0) as served:
        running = asyncio.ensure_future(gather(served.stub.DetectFaces(detect(image))))
        assert await asyncio.to_thread(stuck.begun.acquire, True, 60)
        error = await refusal(served.stub.DetectFaces(detect(image)))
        stuck.go.set()
        assert isinstance(error, errors.ResourceExhausted)
        assert error.retry_after
        assert len((await running)[0].faces) == 1


async def test_a_draining_server_answers_what_it_took_and_ends_the_stream(serve: Serve, frames: Frames) -> None:
    image, stopping = jpeg(frames(MAN)[0]), asyncio.Event()

    async def forever() -> AsyncIterator[embedding_pb2.StreamFacesRequest]:
        for number in range(3):
            yield frame(number, image)
        await stopping.wait()

    async with serve() as served:
        call = served.stub.StreamFaces(forever())
        got: list[Any] = [await call.read() for _ in range(3)]
        stop = asyncio.create_task(served.server.stop())
        error = await refusal(call.read())
        stopping.set()
        await stop
    assert [answer.frame_id for answer in got] == ["f0", "f1", "f2"]
    assert isinstance(error, errors.Draining)


async def test_models_are_listed_by_name_in_pages(stub: Stub) -> None:
    whole = await stub.ListModels(embedding_pb2.ListModelsRequest(parent=STORE))
    assert [model.name for model in whole.models] == [
        "stores/s1/models/face-detection-retail-0004",
        "stores/s1/models/face-reidentification-retail-0095",
        "stores/s1/models/landmarks-regression-retail-0009",
    ]
    assert whole.next_page_token == ""
    embedder = whole.models[1]
    assert embedder.task == embedding_pb2.MODEL_TASK_FACE_EMBEDDING
    assert (embedder.precision, embedder.dimension, embedder.license) == ("FP16", 256, "Apache-2.0")
    assert len(embedder.sha256) == 64
    seen, token = list[embedding_pb2.Model](), ""
    while True:
        page = await stub.ListModels(embedding_pb2.ListModelsRequest(parent=STORE, page_size=2, page_token=token))
        seen += page.models
        token = page.next_page_token
        if not token:
            break
    assert seen == list(whole.models)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


async def test_it_runs_as_a_program(service: StartService, models_dir: Path, tmp_path: Path, frames: Frames) -> None:
    environment = {"POI_MODELS_DIR": str(models_dir), "POI_EMBED_CACHE_DIR": str(tmp_path / "cache")}
    running = await asyncio.to_thread(service, "embed_svc", environment)
    async with connect(running.target, default_timeout=60) as channel:
        stub: Stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        assert len((await stub.DetectFaces(detect(jpeg(frames(MAN)[0]), single_face=True))).faces) == 1
        assert (await refusal(stub.DetectFaces(detect(b"no image")))).reason == "IMAGE_UNDECODABLE"
    wanted = {
        "poi_embed_faces_total 1.0",
        'poi_embed_images_refused_total{reason="IMAGE_UNDECODABLE"} 1.0',
        "poi_embed_image_seconds_count 2.0",
    }

    async def counted() -> bool:
        return wanted <= set((await asyncio.to_thread(read, running.metrics_url)).splitlines())

    await until(counted, "both images are counted")
    assert list((tmp_path / "cache").iterdir()), "compiled models are kept"
