"""A few kilobytes that would like to become gigabytes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import psutil
import pytest
from poi.v1 import embedding_pb2, embedding_pb2_grpc, region_pb2

from mesh import errors
from mesh.channels import connect
from mesh.limits import METADATA_BYTES
from tests.conftest import StartService
from tests.hostile.conftest import STORE, Victim
from tests.support import PATIENCE

SIDE = 30_000


def png() -> bytes:
    """30,000 x 30,000 black pixels: 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * SIDE)) for _ in range(2000)) + packer.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def claimed(kind: str) -> bytes:
    """A small image that says that it is 30,000 x 30,000."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, kind)
    data = bytearray(file.getvalue())
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", SIDE, SIDE)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", SIDE, SIDE)
    else:
        data[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(data)


def list_visits(channel: grpc.aio.Channel) -> Any:
    """The method, as bytes."""
    return channel.unary_unary("/poi.v1.RegionService/ListVisits")


async def test_images_that_unpack_to_gigabytes(service: StartService, models_dir: Path) -> None:
    embed = service("embed_svc", {"POI_MODELS_DIR": str(models_dir)})
    async with connect(embed.target, default_timeout=PATIENCE) as channel:
        stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        before = psutil.Process(embed.pid).memory_info().rss
        for image in (png(), *map(claimed, ("JPEG", "GIF", "BMP"))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.DetectFaces(embedding_pb2.DetectFacesRequest(parent=STORE, image=image))

            assert len(image) < 1 << 20
            assert errors.from_rpc(refused.value).reason == "IMAGE_TOO_LARGE"
        await stub.ListModels(embedding_pb2.ListModelsRequest(parent=STORE))
        grown = psutil.Process(embed.pid).memory_info().rss - before

    assert grown < 32 << 20  # one of them would be 2,700


async def test_a_message_that_unpacks_to_more_than_a_message(victim: Victim) -> None:
    bomb = region_pb2.ListVisitsRequest(parent=STORE, page_token="0" * (96 << 20)).SerializeToString()
    options = [("grpc.max_send_message_length", -1)]
    async with (
        grpc.aio.insecure_channel(victim.target, options=options, compression=grpc.Compression.Gzip) as channel,
        victim.others_are_served(),
    ):
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await list_visits(channel)(bomb, timeout=PATIENCE)

            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        grown = victim.grown()

    assert grown < 32


@pytest.mark.parametrize("size", [METADATA_BYTES + 1, 1 << 20, 32 << 20])
async def test_metadata_without_end(victim: Victim, size: int) -> None:
    async with grpc.aio.insecure_channel(victim.target) as channel, victim.others_are_served():
        call = list_visits(channel)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(region_pb2.ListVisitsRequest(parent=STORE).SerializeToString(), metadata=[("x", "y" * size)])

            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # The connection is of use as before.
        await call(region_pb2.ListVisitsRequest(parent=STORE).SerializeToString(), metadata=[("x", "y" * 12_000)])
        grown = victim.grown()

    assert grown < 64
