"""Moving the log into sealed segments: nothing changes for who asks, also across restarts, damage and full disks."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poi.v1 import common_pb2, history_pb2

from history_svc.index import Probes, Scope
from history_svc.records import appearance_number
from history_svc.seam import PLAIN, Seam
from history_svc.settings import Settings
from history_svc.store import History
from tests.history_svc.client import STORE, detection
from tests.history_svc.test_frames import jpeg, upload
from tests.support import similar, unit, until

PEOPLE = 12
SEAL = 100


def _settings(path: Path, **fields: Any) -> Settings:
    return Settings(**{"data_dir": path / "data", "seal_faces": SEAL, "index_every_seconds": 0, **fields})


@asynccontextmanager
async def running(settings: Settings, *, sealing: bool = True, seam: Seam = PLAIN) -> AsyncIterator[History]:
    """A history at work, without a server around it."""
    history = History.open(settings, seam)
    work = [history.write(), *([history.seal(), history.verify()] if sealing else [])]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield history
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await history.close()
        assert [one for one in ended if isinstance(one, Exception)] == []


def _detections(begin: int, count: int) -> list[common_pb2.Detection]:
    """People who walk by one after the other, each with a face now and then."""
    made = []
    for number in range(begin, begin + count):
        person, at = number % PEOPLE, number / 20
        face = similar(unit(person), 0.8, 1000 + number) if number % 5 else None
        made.append(detection(face, at=at, camera=f"Camera_{person % 3}", object_id=str(person)))
    return made


async def append(history: History, detections: Sequence[common_pb2.Detection], **fields: Any) -> list[bytes]:
    """The appearances."""
    appending = history.append(
        history.read(history_pb2.AppendDetectionsRequest(parent=STORE, detections=detections, **fields))
    )
    assert appending.detections is not None
    answer = await appending.detections
    if appending.frames is not None:
        assert await appending.frames == [None]
    return answer


async def sealed(history: History, least: int) -> None:
    """Waits until there are so many segments, and what they took over is out of memory and of the log."""
    idle = history._sealing.lock
    await until(lambda: len(history.sealed.segments) >= least and not idle.locked(), f"{least} segments")


async def tidy(history: History) -> None:
    """Waits until no log file is closed any more: each is a segment, or part of one, and removed."""
    await until(lambda: not history._ledger.all() and not history._sealing.lock.locked(), "nothing left to seal")


async def _merged(history: History) -> None:
    """Waits until there is a segment of several, and they are gone."""

    def done() -> bool:
        several = any(one.manifest.first_log < one.manifest.last_log for one in history.sealed.segments)
        return several and not history._sealing.lock.locked()

    await until(done, "merged")


async def state(history: History) -> dict[str, Any]:
    """All that can be asked."""
    found = {}
    for person in range(PEOPLE):
        probe = unit(person)[None]
        for camera in (None, ["Camera_1"]):
            hits = history.index.search(Probes(probe, probe), 0.5, Scope(cameras=camera))
            order = np.argsort(hits.numbers)
            ids = [hits.rows["appearance"][at].tobytes() for at in order]
            found[person, str(camera)] = list(zip(ids, hits.similarities[order].tolist(), strict=True))
    appearances = [
        (one.id, one.camera, one.object_id, one.start_ns, one.end_ns, one.count, one.face_count, one.best[:24],
         one.entry[:24], one.exit[:24], one.frames, one.number)
        for one in await history.reads.newest_first(None, None, None, 10_000)
    ]  # fmt: skip
    return {"found": found, "appearances": appearances, "detections": history.detection_count}


async def test_nothing_changes_by_sealing_nor_by_a_restart(tmp_path: Path) -> None:
    frame = upload(jpeg(1))
    async with running(_settings(tmp_path), sealing=False) as history:
        for begin in range(0, 600, 60):
            ids = await append(history, _detections(begin, 60))
        frame.appearances.append(f"{STORE}/appearances/{ids[0].hex()}")
        await append(history, _detections(600, 60), frames=[frame])
        before = await state(history)
    assert all(before["found"][person, "None"] for person in range(PEOPLE))

    async with running(_settings(tmp_path)) as history:
        assert await state(history) == before
        await sealed(history, 3)
        assert await state(history) == before
        again = await append(history, _detections(600, 60))
        await until(lambda: len(list((tmp_path / "data").glob("detections-*.log"))) <= 2, "sealed log files are gone")
        assert await state(history) == before
    async with running(_settings(tmp_path)) as history:
        assert len(history.sealed.segments) >= 3
        assert await state(history) == before
        assert await append(history, _detections(600, 60)) == again
        # What is new goes on where sealed appearances are.
        await append(history, _detections(660, 12))
        assert history.index.next_number > max(one.manifest.next_face for one in history.sealed.segments)
        after = await state(history)
        assert len(after["appearances"]) == len(before["appearances"])
        assert after["detections"] == before["detections"] + 12


async def test_searches_give_the_same_while_sealing_runs(tmp_path: Path) -> None:
    probe = unit(1)[None]

    def answer(scope: Scope) -> list[tuple[int, float]]:
        hits = history.index.search(Probes(probe, probe), 0.5, scope)
        return sorted(zip(hits.numbers.tolist(), hits.similarities.tolist(), strict=True))

    async with running(_settings(tmp_path)) as history:
        await append(history, _detections(0, 200))
        snapshot = Scope(before=history.index.next_number)
        before = answer(snapshot)
        for begin in range(200, 2000, 100):
            await append(history, _detections(begin, 100))
            assert await asyncio.to_thread(answer, snapshot) == before
        await sealed(history, 5)
        assert await asyncio.to_thread(answer, snapshot) == before


async def test_retention_unlinks_whole_segments(tmp_path: Path) -> None:
    async with running(_settings(tmp_path)) as history:
        for begin in range(0, 1200, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 4)
        kept = (await state(history))["appearances"]
    # Everything is about an hour old: half of it is too old now.
    first, last = min(one[3] for one in kept), max(one[4] for one in kept)
    middle = (time.time_ns() - (first + last) // 2) / 86_400e9
    settings = _settings(tmp_path, retention_days=middle, sweep_seconds=0.05)
    async with running(settings) as history:
        sweeper = asyncio.create_task(history.sweep())
        await until(lambda: len(list((tmp_path / "data" / "segments").iterdir())) <= 3, "old segments are gone")
        floor = history.oldest_ns()
        probe = unit(1)[None]
        hits = history.index.search(Probes(probe, probe), 0.3, Scope())
        assert len(hits.numbers)
        assert int(hits.rows["time_ns"].min()) >= floor - 1_000_000_000
        sweeper.cancel()
        await asyncio.wait([sweeper])


@pytest.mark.parametrize("kind", ["manifest.json", "faces.faiss", "vectors.f16", "rows.arrow", "appearances.arrow",
                                  "frames.arrow", "keys.arrow", "sums.f32"])  # fmt: skip
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
async def test_a_damaged_segment_is_put_aside_and_the_rest_served(tmp_path: Path, kind: str, damage: str) -> None:
    template = tmp_path / "template"
    async with running(_settings(template)) as history:
        for begin in range(0, 600, 60):
            await append(history, _detections(begin, 60))
        await sealed(history, 3)
    chance = random.Random(f"{kind} {damage}")
    directory = sorted((template / "data" / "segments").iterdir())[1]
    path = directory / kind
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        path.unlink()

    async with running(_settings(template)) as history:
        await until(lambda: not directory.exists(), "it is put aside: vectors are checked in the background")
        await append(history, _detections(600, 12))
        probe = unit(1)[None]
        assert len(history.index.search(Probes(probe, probe), 0.5, Scope()).numbers)
        assert directory.name not in [one.manifest.directory for one in history.sealed.segments]
    assert (template / "data" / "quarantine" / directory.name).is_dir()


async def test_what_a_crash_left_half_done_is_finished_or_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    async with running(_settings(tmp_path), sealing=False) as history:
        for begin in range(0, 600, 60):
            await append(history, _detections(begin, 60))
        before = await state(history)
    logs.mkdir()
    for path in (tmp_path / "data").glob("detections-*.log"):
        shutil.copy(path, logs)
    async with running(_settings(tmp_path)) as history:
        await sealed(history, 2)
    segments = tmp_path / "data" / "segments"
    # Renamed, but the log files are still there; and a segment that was being written, or removed.
    for path in logs.iterdir():
        shutil.copy(path, tmp_path / "data")
    whole = sorted(segments.iterdir())[0]
    shutil.copytree(whole, segments / "000000000900-000000000901.draft")
    shutil.copytree(whole, segments / "000000000902-000000000903.gone")

    async with running(_settings(tmp_path), sealing=False) as history:
        assert await state(history) == before
    assert not list(segments.glob("*.draft")) + list(segments.glob("*.gone"))


async def test_sealed_appearances_are_on_disk_and_go_on_where_they_were(tmp_path: Path) -> None:
    settings = _settings(tmp_path, gap_seconds=2.0)
    async with running(settings) as history:
        for begin in range(0, 600, 60):
            await append(history, _detections(begin, 60))  # 0 to 30 s
        await sealed(history, 3)
        for number in range(3):  # a minute later somebody else is there: those before are over
            others = [
                detection(
                    similar(unit(20), 0.8, 1000 + at),
                    at=90 + number + at / 40,
                    camera=f"Camera_{at % 3}",
                    object_id="9",
                )
                for at in range(40)
            ]
            await append(history, others)
        await sealed(history, 4)
        everything = await state(history)
        in_memory = {one.id for one in history.book.newest_first(None, None, None)}
        assert len(everything["appearances"]) == PEOPLE + 3
        assert len(in_memory) <= 3
        # A late arrival is one of those that are on disk.
        person = _detections(595, 1)[0]
        first = [one for one in everything["appearances"] if one[2] == person.object_id]
        late = detection(unit(595 % PEOPLE), at=30.0, camera=f"Camera_{595 % PEOPLE % 3}", object_id=person.object_id)
        assert await append(history, [late]) == [first[0][0]]
        (changed,) = [one for one in (await state(history))["appearances"] if one[0] == first[0][0]]
        assert changed[5] == first[0][5] + 1
        # So is a frame that shows one.
        shown = next(one[0] for one in everything["appearances"] if one[0] not in in_memory)
        frame = upload(jpeg(2))
        frame.appearances.append(f"{STORE}/appearances/{shown.hex()}")
        appending = history.append(history.read(history_pb2.AppendDetectionsRequest(parent=STORE, frames=[frame])))
        assert appending.frames is not None
        assert await appending.frames == [None]
        found = await history.reads.appearance(shown)
        assert found is not None
        assert len(found.frames) == 1
        after = await state(history)
    async with running(settings) as history:
        assert await state(history) == after


async def test_listing_is_the_same_whatever_is_on_disk(tmp_path: Path) -> None:
    settings = _settings(tmp_path, gap_seconds=0.5)
    async with running(settings, sealing=False) as history:
        for begin in range(0, 1200, 60):
            await append(history, _detections(begin, 60))
        wanted = [one.id for one in await history.reads.newest_first(None, None, None, 10_000)]
        middle = (await history.reads.newest_first(None, None, None, 10_000))[len(wanted) // 2].start_ns
        some = [one.id for one in await history.reads.newest_first(middle, None, None, 10_000, ["Camera_1"])]
    assert len(wanted) > 100
    async with running(settings) as history:
        await sealed(history, 6)
        assert len(history.book) < len(wanted) // 2
        paged: list[bytes] = []
        after = None
        while page := await history.reads.newest_first(None, None, after, 7):
            paged += [one.id for one in page]
            after = (page[-1].start_ns, page[-1].id)
        assert paged == wanted
        assert [one.id for one in await history.reads.newest_first(middle, None, None, 10_000, ["Camera_1"])] == some


async def test_sampling_keeps_entry_exit_best_and_one_a_second(tmp_path: Path) -> None:
    async with running(_settings(tmp_path, index_every_seconds=1.0, segment_seconds=3600.0)) as history:
        made = []
        for at in range(SEAL):  # five seconds at 20 Hz, the best one in between
            one = detection(similar(unit(1), 0.8, 1000 + at), at=at / 20, object_id="1")
            one.face_confidence = 0.99 if at == 47 else 0.8
            made.append(one)
        (appearance, *_) = await append(history, made)
        assert len(history.index) == SEAL, "everything until it is sealed"
        await sealed(history, 1)
        rows, vectors = history.index.faces_of(appearance_number(appearance), Scope())
        assert [one.hex() for one in rows["detection"].tolist()] == [
            made[at].detection_id for at in (0, 20, 40, 47, 60, 80, 99)
        ]
        assert len(vectors) == 7
        assert history.detection_count == SEAL
        (kept,) = (await history.reads.appearances([appearance])).values()
        assert (kept.count, kept.face_count) == (SEAL, SEAL)
        assert (kept.entry[:16].hex(), kept.exit[:16].hex()) == (made[0].detection_id, made[-1].detection_id)
        # Those that are not searched are known all the same.
        assert await append(history, made) == [appearance] * SEAL
        assert history.detection_count == SEAL


async def test_small_segments_become_large_ones(tmp_path: Path) -> None:
    settings = _settings(tmp_path, index_every_seconds=10.0)
    async with running(settings) as history:
        for begin in range(0, 4000, 100):
            await append(history, _detections(begin, 100))
        await _merged(history)
        everything = await state(history)
        assert everything["detections"] == 4000
        merged = [one.manifest for one in history.sealed.segments if one.manifest.first_log < one.manifest.last_log]
        assert all(max(one.faces, one.rows // 8) >= SEAL for one in merged)
        numbers = [one for segment in history.sealed.segments for one in segment.faces().numbers.tolist()]
        assert numbers == sorted(set(numbers))
    async with running(settings) as history:
        again = await state(history)
        assert again["appearances"] == everything["appearances"]
        assert again["detections"] == 4000


async def test_a_crash_after_merging_leaves_nothing_twice(tmp_path: Path) -> None:
    settings = _settings(tmp_path, index_every_seconds=10.0)
    segments, copies = tmp_path / "data" / "segments", tmp_path / "copies"
    async with running(settings, sealing=False) as history:
        for begin in range(0, 4000, 100):
            await append(history, _detections(begin, 100))
    unmerged = settings.model_copy(update={"seal_seconds": 1e-6})
    async with running(unmerged) as history:
        await tidy(history)
    shutil.copytree(segments, copies)
    async with running(settings) as history:
        await _merged(history)
        await tidy(history)
        everything = await state(history)
    for path in copies.iterdir():
        if not (segments / path.name).exists():
            shutil.copytree(path, segments / path.name)
    async with running(settings, sealing=False) as history:
        assert await state(history) == everything


async def test_log_files_are_sealed_in_time_when_little_happens(tmp_path: Path) -> None:
    settings = _settings(tmp_path, seal_faces=100_000, seal_seconds=0.05)
    async with running(settings, sealing=False) as history:
        await append(history, _detections(0, 60))
        before = await state(history)
    await asyncio.sleep(0.1)
    async with running(settings) as history:
        await sealed(history, 1)
        assert await state(history) == before
        # A moment after the segment is there.
        await until(lambda: not list((tmp_path / "data").glob("detections-*.log")), "sealed log files are gone")
