"""Where frames are kept: the same rules in memory, in a directory and in S3.

S3 is a stand-in, and the server that POI_TEST_S3_URL (s3://bucket/prefix, with AWS_* for the rest) names if it does.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from history_svc.frames import FrameStore, frame_id
from history_svc.objects import Objects, remote
from history_svc.records import Frame
from history_svc.seam import Seam
from history_svc.settings import Settings
from mesh.errors import DataLoss, ResourceExhausted, Unavailable
from mesh.settings import load
from tests.history_svc import s3

SERVER = os.environ.get("POI_TEST_S3_URL", "")
HOUR = 3_600_000_000_000
NOW = int(datetime(2026, 11, 20, 23, 30, tzinfo=UTC).timestamp()) * 1_000_000_000


class Backwards(Seam):
    """Shows what did not pass the seam."""

    def seal(self, content: bytes) -> bytes:
        return b"sealed" + content[::-1]

    def open(self, content: bytes) -> bytes:
        if not content.startswith(b"sealed"):
            raise ValueError
        return content[:5:-1]


def frame(image: bytes, time_ns: int = NOW, camera: str = "door") -> Frame:
    return Frame(frame_id(camera, time_ns, image), camera, time_ns, 1, len(image))


async def read(store: FrameStore, one: Frame) -> list[bytes]:
    return [part async for part in store.parts(one)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3]:
    """A stand-in for S3, which this process's environment names."""
    with s3.running() as one:
        for name, value in one.environment.items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.fixture(params=["memory", "directory", "s3", *(["server"] if SERVER else [])])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """An empty place for objects."""
    match request.param:
        case "memory":
            yield Objects(MemoryStore())
        case "directory":
            yield Objects.local(tmp_path / "frames")
        case "s3":
            request.getfixturevalue("server")
            yield Objects(remote(f"s3://{s3.BUCKET}/of/store-1"))
        case _:
            one = Objects(remote(f"{SERVER.rstrip('/')}/{uuid.uuid4()}"))
            yield one
            for folder in await one.folders():
                await one.remove_below(folder)


async def _nothing(ids: list[str]) -> set[str]:
    """No frame is known."""
    return set()


async def test_a_frame_is_read_as_it_was_in_small_parts_and_sealed_where_it_is(objects: Objects) -> None:
    store = FrameStore(objects, Backwards())
    image = os.urandom((5 << 20) + 1)
    one = frame(image)

    await store.save(one, image)
    await store.save(one, image)
    parts = await read(store, one)

    assert b"".join(parts) == image
    assert max(map(len, parts)) == 64 << 10
    assert await objects.get(f"20261120/23/{one.id}.jpg") == b"sealed" + image[::-1]


async def test_a_frame_that_is_gone_or_damaged_says_so(objects: Objects) -> None:
    store = FrameStore(objects, Backwards())
    for content in (b"damage", b"sealed" + b"x", b""):
        one = frame(b"image")
        await store.save(one, b"image")
        await objects.put(f"20261120/23/{one.id}.jpg", content)
        with pytest.raises(DataLoss, match="damaged"):
            await read(store, one)
    with pytest.raises(DataLoss, match="gone"):
        await read(store, frame(b"another"))


async def test_removed_frames_are_gone_and_others_stay(objects: Objects) -> None:
    store = FrameStore(objects, Seam())
    frames = {frame(image, NOW + at): image for at, image in enumerate((b"a", b"b", b"c"))}
    for one, image in frames.items():
        await store.save(one, image)
    first, second, third = frames

    await store.remove([])
    await store.remove([first, frame(b"never", NOW), third])
    await store.remove([first, third])

    assert await read(store, second) == [b"b"]
    for one in (first, third):
        with pytest.raises(DataLoss):
            await read(store, one)


async def test_retention_drops_hours_that_ended(objects: Objects) -> None:
    store = FrameStore(objects, Seam())
    old = [frame(b"%d" % at, NOW - 3 * HOUR - at) for at in range(5)] + [frame(b"0", NOW - 26 * HOUR)]
    kept = [frame(b"0", NOW - HOUR), frame(b"0", NOW), frame(b"0", NOW + HOUR)]  # the last is of the next day
    for one in old + kept:
        await store.save(one, b"0")
    await objects.put("note.txt", b"not ours")
    await objects.put("99999999/77/x", b"not ours")

    assert await store.drop_before(NOW - HOUR) == 6
    assert await store.drop_before(NOW - HOUR) == 0
    # Half past: the hour has not ended.
    assert [listed.key async for found in objects.list("20261120/22") for listed in found]
    assert await objects.folders() == ["20261120", "20261121", "99999999"]
    assert await objects.folders("20261120") == ["22", "23"]
    assert await store.drop_before(NOW + HOUR) == 2
    assert await objects.folders() == ["20261121", "99999999"]


async def test_what_a_killed_process_did_not_record_is_removed(objects: Objects) -> None:
    images = {frame(b"%d" % at, NOW - at * HOUR): b"%d" % at for at in range(3)}
    before = FrameStore(objects, Seam())
    for one, image in images.items():
        await before.save(one, image)
    recorded, sent_again, orphan = images
    await asyncio.sleep(1.1)  # S3 tells times in seconds
    store = FrameStore(objects, Seam())
    await store.save(sent_again, images[sent_again])
    await store.save(new := frame(b"new"), b"new")
    asked: list[str] = []

    async def known(ids: list[str]) -> set[str]:
        asked.extend(ids)
        return {recorded.id}

    assert await store.remove_orphans(known) == 1
    assert orphan.id in asked
    assert [await read(store, one) for one in (recorded, sent_again, new)] == [[b"0"], [b"1"], [b"new"]]
    with pytest.raises(DataLoss):
        await read(store, orphan)


async def test_an_orphan_that_comes_again_while_it_is_removed_is_there(objects: Objects) -> None:
    image = b"image"
    one = frame(image)
    await FrameStore(objects, Seam()).save(one, image)
    await asyncio.sleep(1.1)
    store = FrameStore(objects, Seam())
    removing, saving = asyncio.Event(), list[asyncio.Task[None]]()
    remove = objects.remove

    async def slow(keys: list[str]) -> None:
        removing.set()
        saving.append(asyncio.create_task(store.save(one, image)))
        await asyncio.sleep(0.05)
        await remove(keys)

    objects.remove = slow  # type: ignore[method-assign, assignment]
    assert await store.remove_orphans(_nothing) == 1
    assert removing.is_set()
    await asyncio.gather(*saving)

    assert await read(store, one) == [image]


async def test_what_a_crash_left_of_a_write_goes_with_the_orphans_or_the_hour(tmp_path: Path) -> None:
    folders = [tmp_path / "20261120" / "22", tmp_path / "20261120" / "23"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.jpg#1").write_bytes(b"half")
    store = FrameStore(Objects.local(tmp_path), Seam())
    (folders[1] / "b.jpg#1").write_bytes(b"being written")

    assert await store.drop_before(NOW) == 0
    assert await store.remove_orphans(_nothing) == 1
    assert not folders[0].exists()
    assert [path.name for path in folders[1].iterdir()] == ["b.jpg#1"]


async def test_an_outage_is_unavailable_within_seconds_and_passes(server: s3.S3) -> None:
    store = FrameStore.open(f"s3://{s3.BUCKET}", Path("unused"), Seam())
    one = frame(b"image")
    server.down = True
    with pytest.raises(Unavailable) as raised:
        await store.save(one, b"image")
    tries = len(server.calls)
    for failing in (read(store, one), store.remove([one]), store.drop_before(NOW), store.remove_orphans(_nothing)):
        with pytest.raises(Unavailable):
            await failing
    server.down = False
    await store.save(one, b"image")

    assert raised.value.reason == "FRAMES_UNAVAILABLE"
    assert tries == 4, "a call, and three more within two seconds or so: ten are the library's own way"
    assert await read(store, one) == [b"image"]


async def test_thousands_of_frames_go_with_few_calls(server: s3.S3) -> None:
    store = FrameStore.open(f"s3://{s3.BUCKET}/of/store-1", Path("unused"), Seam())
    long_ago = datetime(2026, 11, 20, tzinfo=UTC)
    for number in range(2500):
        server.objects[f"of/store-1/20261120/22/{number:032x}.jpg"] = (b"x", long_ago)

    assert await store.drop_before(NOW) == 2500
    assert server.objects == {}
    assert len(server.calls) <= 6, "two lists of folders, one of the hour, a delete for each thousand"


async def test_a_disk_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects.local(tmp_path / "frames")
    store = FrameStore(objects, Seam())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)  # a late allocation; an early one is in test_frames
    with pytest.raises(ResourceExhausted) as raised:
        await store.save(frame(b"image"), b"image")
    assert raised.value.reason == "DISK_FULL"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/var/frames", "is not file:///DIRECTORY"),
        ("file://var/frames", "is not file:///DIRECTORY"),
        ("file:///frames?x=1", "is not file:///DIRECTORY"),
        ("s3://", "Unable to recognise URL"),
        ("s3://key:secret@bucket/x", "takes no credentials"),
        ("memory:///", "is not file:///DIRECTORY"),
        ("https://example.com/frames", "is not file:///DIRECTORY"),
    ],
)
def test_a_wrong_url_is_one_clear_line(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POI_HISTORY_FRAMES_URL", url)
    with pytest.raises(SystemExit):
        load(Settings, [])
    said = capsys.readouterr().err
    assert why in said
    assert "POI_HISTORY_FRAMES_URL" in said
    assert len(said.splitlines()) == 1
    assert "secret" not in said


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("minio:9000", "AWS_ENDPOINT is not http"),
        ("http://minio:9000 x", "AWS_ENDPOINT is not http"),
        ("http://minio:9000", "AWS_ENDPOINT has no TLS"),
    ],
)
def test_a_wrong_endpoint_is_found_at_start(
    endpoint: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It made the library panic with each frame, past all handlers."""
    monkeypatch.setenv("POI_HISTORY_FRAMES_URL", "s3://bucket")
    monkeypatch.setenv("AWS_ENDPOINT", endpoint)
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(SystemExit):
        load(Settings, [])
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "file:///var/poi%20frames", "s3://bucket", "s3://bucket/a/b", "gs://bucket"])
def test_these_urls_are_right(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POI_HISTORY_FRAMES_URL", url)
    assert load(Settings, []).frames_url == url


async def test_a_url_names_a_directory(tmp_path: Path) -> None:
    home = tmp_path / "poi frames"
    store = FrameStore.open(f"{home.as_uri()}", tmp_path / "unused", Seam())
    await store.save(frame(b"image"), b"image")
    assert [path.read_bytes() for path in home.glob("20261120/23/*.jpg")] == [b"image"]
    assert not (tmp_path / "unused").exists()
