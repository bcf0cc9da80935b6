"""Evidence frames: on disk before they are acknowledged, read back byte by byte, bad ones refused."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poi.v1 import history_pb2

from history_svc.frames import is_jpeg
from mesh.errors import DataLoss, NotFound, ResourceExhausted, Unavailable, from_rpc
from mesh.local import Service
from tests.history_svc import s3
from tests.history_svc.client import STORE, Client, detection, moment
from tests.history_svc.conftest import StartHistory
from tests.support import unit, until


def jpeg(seed: int, size: int = 400) -> bytes:
    """A noisy picture, so that it takes several parts."""
    picture = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", picture)[1])


def upload(image: bytes, *appearances: str, at: float = 0.0, camera: str = "Camera_01") -> history_pb2.FrameUpload:
    return history_pb2.FrameUpload(
        camera=f"{STORE}/cameras/{camera}",
        capture_time=moment(at),
        kind=history_pb2.FRAME_KIND_ENTRY,
        image=image,
        appearances=appearances,
    )


async def _read(client: Client, name: str) -> list[bytes]:
    parts: list[bytes] = []
    async for part in client.stub.GetFrame(history_pb2.GetFrameRequest(name=name)):
        assert part.content_type == ("" if parts else "image/jpeg")
        parts.append(part.data)
    return parts


def _of(one: history_pb2.Appearance) -> list[str]:
    return [frame.name for frame in one.frames]


@pytest.mark.both_stores
async def test_frames_belong_to_their_appearances_and_survive_sigkill(client: Client, server: Service) -> None:
    image, other = jpeg(1), jpeg(2)
    first = detection(unit(1), at=0)
    began = f"{STORE}/appearances/{first.detection_id}"
    # The appearance begins in the same request.
    answer = await client.append(first, frames=[upload(image, began, at=1), upload(other, began, at=0)])
    server.kill()
    server.start()

    (appearance,) = await client.appearances()
    parts = await _read(client, answer.frames[0])

    assert b"".join(parts) == image
    assert len(parts) > 1
    assert max(map(len, parts)) <= 64 << 10
    assert b"".join(await _read(client, answer.frames[1])) == other
    assert _of(appearance) == [answer.frames[1], answer.frames[0]], "oldest first"
    (_, frame) = appearance.frames
    assert (frame.camera, frame.capture_time, frame.kind, frame.size_bytes) == (
        f"{STORE}/cameras/Camera_01",
        moment(1),
        history_pb2.FRAME_KIND_ENTRY,
        len(image),
    )


@pytest.mark.both_stores
async def test_a_repeated_frame_is_the_same_and_may_show_more(client: Client, data_dir: Path) -> None:
    stored = (await client.append(detection(object_id="a"), detection(object_id="b"))).stored
    image = jpeg(1)

    once = await client.append(frames=[upload(image, stored[0].appearance)])
    again = await client.append(frames=[upload(image, stored[0].appearance)] * 3)
    more = await client.append(frames=[upload(image, stored[1].appearance)])

    assert len({*once.frames, *again.frames, *more.frames}) == 1
    assert [_of(one) for one in await client.appearances()] == [[once.frames[0]]] * 2
    assert len(list((data_dir / "frames").rglob("*.jpg"))) == 1


@pytest.mark.both_stores
async def test_bad_frames_cost_themselves_only(client: Client) -> None:
    good = jpeg(1)
    nowhere = f"{STORE}/appearances/{'0' * 32}"
    no_time = upload(good)
    no_time.ClearField("capture_time")
    frames = [
        upload(b"\x89PNG\r\n\x1a\n" + bytes(100)),
        upload(good),
        upload(good + bytes(9 << 20)),
        upload(b""),
        upload(good, nowhere),
        no_time,
        upload(good, camera="Camera 1"),
    ]

    answer = await client.append(detection(), frames=frames)

    assert len(answer.stored) == 1
    assert [bool(name) for name in answer.frames] == [False, True, False, False, False, False, False]
    assert [error.index for error in answer.frame_errors] == [0, 2, 3, 4, 5, 6]
    assert b"".join(await _read(client, answer.frames[1])) == good


@pytest.mark.parametrize("name", [f"{STORE}/frames/{'0' * 32}", "stores/other/frames/x"])
async def test_a_frame_that_is_not_there_is_not_found(any_client: Client, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _read(any_client, name)
    assert isinstance(from_rpc(raised.value), NotFound)


@pytest.mark.both_stores
async def test_a_frame_whose_file_is_gone_says_so(client: Client, data_dir: Path) -> None:
    (name,) = (await client.append(frames=[upload(jpeg(1))])).frames
    for path in (data_dir / "frames").rglob("*.jpg"):
        path.unlink()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _read(client, name)

    assert isinstance(from_rpc(raised.value), DataLoss)


async def test_a_frame_that_is_too_large_for_the_disk_is_refused_and_comes_later(
    client: Client, server: Service, data_dir: Path
) -> None:
    began = (await client.append(detection())).stored[0].appearance
    image = jpeg(1)
    assert len(image) > 100_000
    with file_size_limit(server, 100_000):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.append(frames=[upload(image, began)])
        error = from_rpc(raised.value)
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "DISK_FULL"
        (meanwhile,) = await client.appearances()
        assert not list((data_dir / "frames").rglob("*.*"))
    answer = await client.append(frames=[upload(image, began)])
    server.kill()
    server.start()
    (after,) = await client.appearances()

    assert not meanwhile.frames
    assert _of(after) == list(answer.frames)
    assert b"".join(await _read(client, answer.frames[0])) == image


async def test_retention_removes_the_files_of_old_frames(start: StartHistory, data_dir: Path) -> None:
    server = start({"POI_HISTORY_SWEEP_SECONDS": "0.1"})
    frames = [upload(jpeg(seed), at=at) for seed, at in ((1, -4 * 3600), (2, -4 * 3600), (3, 3590))]
    async with Client(server.target) as client:
        names = (await client.append(frames=frames)).frames
        assert len(list((data_dir / "frames").rglob("*.jpg"))) == 3
        server.stop()
        server.env["POI_HISTORY_RETENTION_DAYS"] = str(2 / 24)
        server.start()
        await until(lambda: len(list((data_dir / "frames").rglob("*"))) == 3, "two folders and a frame are left")
        kept = list((data_dir / "frames").rglob("*"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _read(client, names[0])

        assert isinstance(from_rpc(raised.value), NotFound)
        assert [path.stem for path in kept if path.is_file()] == [names[2].rpartition("/")[2]]
        assert b"".join(await _read(client, names[2])) == jpeg(3)


async def test_frames_are_kept_in_s3(start: StartHistory, data_dir: Path) -> None:
    image = jpeg(1)
    with s3.running() as bucket:
        server = start({"POI_HISTORY_FRAMES_URL": f"s3://{s3.BUCKET}/store-1", **bucket.environment})
        async with Client(server.target) as client:
            answer = await client.append(first := detection(), frames=[upload(image)])
            began = f"{STORE}/appearances/{first.detection_id}"
            bucket.down = True
            for failing in (client.append(frames=[upload(jpeg(2), began)]), _read(client, answer.frames[0])):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await failing
                assert isinstance(from_rpc(raised.value), Unavailable)
            assert len((await client.append(detection(at=1))).stored) == 1, "detections do not need it"
            bucket.down = False
            await client.append(frames=[upload(jpeg(2), began)])
            server.kill()
            server.start()
            (appearance,) = await client.appearances()
            parts = await _read(client, answer.frames[0])

    assert b"".join(parts) == image
    assert len(appearance.frames) == 1
    assert len(bucket.objects) == 2
    assert all(key.startswith("store-1/20") for key in bucket.objects)
    assert not (data_dir / "frames").exists()


@contextmanager
def file_size_limit(server: Service, limit: int) -> Iterator[None]:
    """As if the disk had no room for a larger file."""
    ready = next(server.data_dir.glob("*.ready.json"))
    pid = int(json.loads(ready.read_text())["pid"])
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@given(st.binary(max_size=64), st.integers(0, 200))
def test_any_bytes_are_a_jpeg_or_not(content: bytes, cut: int) -> None:
    is_jpeg(b"\xff\xd8" + content)  # never raises, always ends
    assert is_jpeg(jpeg(1, 16))
    assert not is_jpeg(jpeg(1, 16)[:20])
    assert not is_jpeg(jpeg(1, 16)[1:])
