"""Answers are the same before, while and after the log is sealed, segments are merged and what is old goes."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from history_svc.index import Probes, Scope
from history_svc.store import History
from tests.history_svc.client import moment
from tests.history_svc.test_sealing import PEOPLE, _detections, _settings, append, running, sealed
from tests.support import unit

A_SECOND = 20
"""Detections."""
OLD = 10
"""Seconds at the beginning that are too old in the end."""
BEGIN, SECONDS = 600, 60
"""What the questions are about."""


def _answers(history: History, before: int) -> Any:
    """All that is asked, of what was there when faces had lower numbers than `before`."""
    begin = moment(BEGIN).ToNanoseconds()
    found: list[Any] = []
    for person in range(0, PEOPLE, 3):
        probe = unit(person)[None]
        for scope in (
            Scope(start_ns=begin, before=before),
            Scope(start_ns=begin, end_ns=begin + 5 * 10**9, cameras=["Camera_0", "Camera_2"], before=before),
        ):
            hits = history.index.search(Probes(probe, probe), 0.5, scope)
            order = np.argsort(hits.numbers)
            best = hits.rows["detection"][order].tolist()
            found.append((hits.numbers[order].tolist(), hits.similarities[order].tolist(), best))
            for number in hits.appearances[order].tolist():
                rows, vectors = history.index.faces_of(number, scope)
                places = np.argsort(rows["time_ns"], kind="stable")
                found.append((rows["detection"][places].tolist(), vectors[places].tobytes()))
    return found


async def _listed(history: History) -> list[Any]:
    """The appearances that began late enough."""
    kept = await history.reads.newest_first(None, None, None, 10_000)
    begin, end = moment(BEGIN).ToNanoseconds(), moment(BEGIN + SECONDS).ToNanoseconds()
    return [
        (one.id, one.object_id, one.start_ns, one.end_ns, one.count)
        for one in kept
        if one.start_ns >= begin and one.end_ns < end
    ]


class Searchers:
    """Threads that ask without a pause, and remember the first wrong answer."""

    def __init__(self, history: History, before: int, wanted: Any) -> None:
        self._history, self._before, self._wanted = history, before, wanted
        self._stop = threading.Event()
        self.asked = 0
        self.wrong: list[Any] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set() and not self.wrong:
            try:
                answers = _answers(self._history, self._before)
            except Exception as error:
                self.wrong.append(error)
                return
            self.asked += 1
            if answers != self._wanted:
                self.wrong.append([pair for pair in zip(answers, self._wanted, strict=False) if pair[0] != pair[1]])

    async def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


async def test_answers_are_the_same_while_everything_moves(tmp_path: Path) -> None:
    first, last = BEGIN * A_SECOND, (BEGIN + SECONDS) * A_SECOND
    small = _settings(tmp_path, gap_seconds=2.0, seal_faces=80)
    async with running(small) as history:
        await append(history, _detections(0, OLD * A_SECOND))
        for begin in range(first, last - 200, 50):
            await append(history, _detections(begin, 50))
        await sealed(history, 8)
    # The rest is still in the log, and to be sealed. Those segments are too small now, and will be merged.
    moved = small.model_copy(update={"seal_faces": 400, "sweep_seconds": 0.01, "seal_seconds": 120.0})
    async with running(moved, sealing=False) as history:
        for begin in range(last - 200, last, 50):
            await append(history, _detections(begin, 50))
    async with running(moved, sealing=False) as history:
        before = history.index.next_number
        wanted, listed = _answers(history, before), await _listed(history)
        assert len(wanted) > 10
        assert len(listed) >= PEOPLE
        floor = moment(BEGIN // 2).ToNanoseconds()
        assert history.sealed.segments[0].manifest.newest_ns < floor
        searchers = Searchers(history, before, wanted)
        tasks = [asyncio.create_task(one) for one in (history.seal(), history.verify(), history.sweep())]
        try:
            for begin in range(last + 100, last + 2100, 50):  # later than what is asked about
                await append(history, _detections(begin, 50))
                assert await _listed(history) == listed
            history._inbox._settings = moved.model_copy(update={"retention_days": _days(BEGIN // 2)})
            async with asyncio.timeout(150):
                while (
                    searchers.asked < 10
                    or history.sealed.segments[0].manifest.oldest_ns < floor
                    or not moved_all(history)
                ):
                    assert await _listed(history) == listed
                    await asyncio.sleep(0.01)
        finally:
            await searchers.stop()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert searchers.wrong == []
        manifests = [one.manifest for one in history.sealed.segments]
        assert any(one.generation > 0 for one in manifests), "merged"
        assert sum(one.generation == 0 for one in manifests) >= 2, "sealed"
        assert _answers(history, before) == wanted
    async with running(moved, sealing=False) as history:
        assert _answers(history, before) == wanted
        assert await _listed(history) == listed


def moved_all(history: History) -> bool:
    """Whether segments were merged, and log files sealed."""
    generations = [one.manifest.generation for one in history.sealed.segments]
    return any(generations) and generations.count(0) >= 2


def _days(seconds: float) -> float:
    """Since that moment."""
    return (time.time_ns() - moment(seconds).ToNanoseconds()) / 86_400e9
