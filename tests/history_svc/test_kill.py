"""SIGKILL at any moment of append, seal, retention and erasure: what was acknowledged is there, what went is not."""

import asyncio
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from history_svc.index import Probes, Scope
from history_svc.records import appearance_number
from history_svc.settings import Settings
from history_svc.store import History
from tests.history_svc import grinder
from tests.support import unit

ROUNDS = int(os.environ.get("POI_TEST_KILLS", "100"))
KEPT = 150
"""Batches, a second each."""
SLACK = 60
"""Seconds that a round may take, while what is kept moves on."""
SECOND = 1_000_000_000

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.history_svc.grinder"])


def _killed(
    data_dir: Path, begin_ns: int, first: int, oldest_ns: int, chance: random.Random, erased: set[bytes]
) -> dict[int, list[bytes]]:
    """What was acknowledged before the end; `erased` is added to."""
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=grinder.grind, args=(data_dir, begin_ns, first, oldest_ns, sender))
    process.start()
    sender.close()
    acknowledged: dict[int, list[bytes]] = {}
    deadly, moment = chance.randint(0, 40), chance.random() * 0.03
    try:
        while len(acknowledged) < deadly:
            assert receiver.poll(60), "it ends only when it is killed"
            _note(receiver.recv(), acknowledged, erased)
        time.sleep(moment)
        process.kill()
        while True:
            _note(receiver.recv(), acknowledged, erased)
    except EOFError:
        assert len(acknowledged) >= deadly, "it ended before it was killed"
        return acknowledged
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def _note(told: tuple[int, list[bytes]], acknowledged: dict[int, list[bytes]], erased: set[bytes]) -> None:
    number, appearances = told
    if number < 0:
        erased.update(appearances)
    else:
        acknowledged[number] = appearances


def _check(
    history: History, acknowledged: dict[int, list[bytes]], begin_ns: int, oldest: int, erased: set[bytes]
) -> None:
    """Every acknowledged detection is known as it was, and found; nothing is found twice, after its time, or erased."""
    # Those whose erasure was not acknowledged, but had begun.
    gone = erased | history.erasures.all_appearances()
    assert not erased & history.erasures.erased.appearances, "acknowledged before it was done"
    kept = {number: ids for number, ids in acknowledged.items() if number >= oldest}
    detections, times, owners = [], [], []
    for number, ids in kept.items():
        for one, owner in zip(grinder.batch(number, begin_ns), ids, strict=True):
            detections.append(bytes.fromhex(one.detection_id))
            times.append(begin_ns + number * SECOND)
            owners.append(owner)
    shelf = history.sealed.shelf
    sealed = shelf.detections(detections, np.array(times, np.int64)) if detections else {}
    shelved = shelf.with_ids(set(owners))
    for detection, owner in zip(detections, owners, strict=True):
        if owner in gone:
            assert history.book.appearance_of(detection) is None
            assert detection not in sealed or owner not in erased
            assert history.erasures.appearance_of(detection) == owner
            continue
        stored = history.book.appearance_of(detection)
        assert (stored.id if stored is not None else sealed.get(detection)) == owner
        assert history.book.get(owner) is not None or owner in shelved

    faces: dict[bytes, set[int]] = {}
    for person in range(grinder.BATCH):
        probe = unit(person)[None]
        hits = history.index.search(Probes(probe, probe), 0.5, Scope())
        for row, number in zip(hits.rows, hits.numbers.tolist(), strict=True):
            faces.setdefault(row["appearance"].tobytes(), set()).add(number)
            assert row["time_ns"] >= begin_ns + (oldest - SLACK) * SECOND, "no longer kept"
    assert set(owners) - gone <= set(faces)
    assert not gone & set(faces)
    # Those that are there all the time: every face of theirs, once.
    for person in (1, 3, 5):
        if not owners:
            continue
        owner = owners[-grinder.BATCH + person]
        rows, _ = history.index.faces_of(appearance_number(owner), Scope())
        seen = rows["detection"].tolist()
        assert len(set(seen)) == len(seen)
        assert {one for one, of in zip(detections, owners, strict=True) if of == owner} <= set(seen)


@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_sigkill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    begin_ns = time.time_ns() - 3000 * SECOND
    acknowledged: dict[int, list[bytes]] = {}
    erased: set[bytes] = set()
    segments = 0
    for _ in range(ROUNDS):
        # Some of the batches that are not known to be there are, and come a second time.
        first = max(0, max(acknowledged, default=-1) - chance.randint(-1, 20))
        oldest = max(0, max(acknowledged, default=0) - KEPT)
        oldest_ns = begin_ns + (oldest - SLACK) * SECOND
        acknowledged |= _killed(tmp_path, begin_ns, first, oldest_ns, chance, erased)
        history = History.open(grinder.settings(tmp_path, oldest_ns))
        try:
            _check(history, acknowledged, begin_ns, oldest, erased)
            segments = max(segments, len(history.sealed.segments))
            assert not list((tmp_path / "quarantine").glob("*"))
        finally:
            history._close()
    assert segments >= 3
    assert erased
    assert asyncio.run(_finished(grinder.settings(tmp_path, oldest_ns))) >= ROUNDS // 5


async def _finished(settings: Settings) -> int:
    """How many were erased in all, once those are finished that had begun; no segment nor log has any of them."""
    history = History.open(settings)
    work = asyncio.create_task(history.erasing.run())
    async with asyncio.timeout(60):
        while history.erasures.pending:  # noqa: ASYNC110 - it tells who asked for the erasure
            await asyncio.sleep(0.02)
    work.cancel()
    await history.close()
    gone = history.erasures.all_appearances()
    for path in settings.data_dir.rglob("*"):
        if path.is_file() and "erasures" not in path.parts:
            content = path.read_bytes()
            assert not any(one in content for one in gone), path
    return len(gone)
