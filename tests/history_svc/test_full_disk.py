"""A disk that is full for real: appends are refused, sealing and merging wait, and all goes on once there is room."""

import asyncio
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from history_svc import metrics, sealing
from history_svc.store import History
from mesh.errors import ResourceExhausted
from tests.history_svc.test_sealing import _detections, _settings, append, running, sealed, state

ROOM = 2 << 20
BATCH = 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; where none can be mounted, a directory whose files may not grow beyond what is left."""
    home = tmp_path / "disk"
    home.mkdir()
    mounted = _tool("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(home))
    try:
        yield home
    finally:
        if mounted:
            assert _tool("umount", "--lazy", str(home))


def _tool(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Filler:
    """Takes all room but so many bytes, or gives it back."""

    def __init__(self, home: Path) -> None:
        self._home, self._path = home, home / "filler"
        self._mounted = home.is_mount()
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(self, room: int, largest_file: int) -> None:
        """`largest_file` where there is no disk of our own to fill."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, self._limits[1]))
            return
        free = shutil.disk_usage(self._home).free
        with self._path.open("ab") as file:
            file.write(bytes(max(0, free - room)))

    def clear(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        self._path.unlink(missing_ok=True)


@pytest.fixture
def filler(small_disk: Path) -> Iterator[Filler]:
    one = Filler(small_disk)
    yield one
    one.clear()


async def _seen(history: History) -> Any:
    found = await state(history)
    return found["appearances"], found["detections"]


async def _failed(before: float) -> None:
    async with asyncio.timeout(60):
        while metrics.SEAL_FAILURES._value.get() == before:  # noqa: ASYNC110 - sealing tells nobody
            await asyncio.sleep(0.01)


async def _append_until_full(history: History, begin: int) -> int:
    """Returns where the first refused batch begins; what came next where twenty are not enough."""
    for _ in range(20):
        try:
            await append(history, _detections(begin, BATCH))
        except ResourceExhausted:
            return begin
        begin += BATCH
    return begin


async def test_appends_are_refused_while_the_log_cannot_grow_and_nothing_is_lost(
    small_disk: Path, filler: Filler
) -> None:
    settings = _settings(small_disk, min_free_bytes=0, seal_faces=100_000)
    async with running(settings) as history:
        await append(history, _detections(0, BATCH))
        filler.leave(100_000, 30_000)
        refused = await _append_until_full(history, BATCH)
        before = await _seen(history)
        files = len(list((small_disk / "data").glob("detections-*.log")))
        for _ in range(10):
            with pytest.raises(ResourceExhausted) as raised:
                await append(history, _detections(refused, BATCH))
            assert raised.value.reason == "DISK_FULL"
        assert len(list((small_disk / "data").glob("detections-*.log"))) <= files + 1, "each try would take more room"
        assert await _seen(history) == before
        assert before[1] == refused

        filler.clear()
        await append(history, _detections(refused, BATCH))
        after = await _seen(history)
        assert after[1] == refused + BATCH
    async with running(settings, sealing=False) as history:
        assert await _seen(history) == after


async def test_sealing_waits_for_room_and_appends_go_on(
    small_disk: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_RETRY_SECONDS", 0.02)
    settings = _settings(small_disk, min_free_bytes=0, seal_faces=200, index_every_seconds=0)
    async with running(settings) as history:
        failures = metrics.SEAL_FAILURES._value.get()
        await append(history, _detections(0, 3 * BATCH))
        filler.leave(150_000, 75_000)  # enough for the log, not for a segment of it
        for begin in (3 * BATCH, 4 * BATCH):
            with suppress(ResourceExhausted):  # where files, not the disk, have a limit
                await append(history, _detections(begin, BATCH))
            await append(history, _detections(begin, BATCH))
        refused = await _append_until_full(history, 5 * BATCH)
        await _failed(failures)
        assert history.sealed.segments == ()
        assert not [one for one in (small_disk / "data" / "segments").iterdir() if one.suffix != ".draft"]
        assert (await _seen(history))[1] == refused

        filler.clear()
        await sealed(history, 1)
        await append(history, _detections(refused, BATCH))
        after = await _seen(history)
        assert after[1] == refused + BATCH
    async with running(settings) as history:
        assert await _seen(history) == after
        assert not list((small_disk / "data" / "quarantine").glob("*"))


async def test_merging_waits_for_room_and_leaves_what_it_would_merge(
    small_disk: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr("history_svc.sealed.merging._FEW", 4)
    apart = _settings(small_disk, min_free_bytes=0, seal_seconds=1e-6)
    for begin in range(0, 5 * BATCH, BATCH):  # a segment each
        async with running(apart, sealing=False) as history:
            await append(history, _detections(begin, BATCH // 2))
        async with running(apart) as history:
            await sealed(history, begin // BATCH + 1)
    filler.leave(8_000, 8_000)
    failures = metrics.SEAL_FAILURES._value.get()
    async with running(_settings(small_disk, min_free_bytes=0)) as history:
        small = len(history.sealed.segments)
        assert small == 5
        before = await _seen(history)
        await _failed(failures)
        assert len(history.sealed.segments) == small
        assert await _seen(history) == before

        filler.clear()
        async with asyncio.timeout(60):
            while len(history.sealed.segments) == small:  # noqa: ASYNC110 - sealing tells nobody
                await asyncio.sleep(0.01)
        assert await _seen(history) == before
    async with running(_settings(small_disk, min_free_bytes=0), sealing=False) as history:
        assert await _seen(history) == before


async def test_some_room_is_left_for_sealing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(_settings(tmp_path)) as history:
        await append(history, _detections(0, BATCH))
        disk = os.statvfs(tmp_path)
        scarce = os.statvfs_result((*disk[:4], (256 << 20) // disk.f_frsize - 1, *disk[5:]))
        monkeypatch.setattr(os, "statvfs", lambda _: scarce)
        with pytest.raises(ResourceExhausted):
            await append(history, _detections(BATCH, BATCH))
        monkeypatch.undo()
        await append(history, _detections(BATCH, BATCH))
        assert (await _seen(history))[1] == 2 * BATCH
