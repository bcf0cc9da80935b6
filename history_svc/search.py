"""Searches, ranked."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from history_svc import metrics
from history_svc.appearances import Appearance
from history_svc.history import HistoryStore
from history_svc.index import Probes, Scope

Place = tuple[float, bytes]
"""What hits are sorted by: a number (nanoseconds stay exact: they are ints) and the appearance's id."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An appearance that was found; `best` is the packed row of its face most similar to the query."""

    appearance: Appearance
    similarity: float
    best: bytes


def by_similarity(hit: Hit) -> Place:
    """A hit's place when the most similar comes first."""
    return (-hit.similarity, hit.appearance.id)


def by_time(hit: Hit) -> Place:
    """A hit's place when the first to be seen comes first."""
    return (hit.appearance.start_ns, hit.appearance.id)


class Searches:
    """Runs at most `limit` searches side by side; others wait."""

    def __init__(self, history: HistoryStore, limit: int) -> None:
        self._history = history
        self._turn = asyncio.Semaphore(limit)

    async def find(self, probes: Probes, min_similarity: float, scope: Scope) -> list[Hit]:
        """All hits, most similar first."""
        async with self._turn:
            started = time.perf_counter()
            found = await asyncio.to_thread(self._history.index.search, probes, min_similarity, scope)
            metrics.SEARCH_SECONDS.observe(time.perf_counter() - started)
        hits: list[Hit] = []
        size = found.rows.dtype.itemsize
        raw = found.rows.tobytes()
        numbers = found.appearances.tolist()
        appearances = await self._history.reads.numbered(numbers)
        for at, (number, similarity) in enumerate(zip(numbers, found.similarities.tolist(), strict=True)):
            appearance = appearances.get(number)
            if appearance is not None:  # not too old meanwhile
                hits.append(Hit(appearance, similarity, raw[at * size : (at + 1) * size]))
        hits.sort(key=by_similarity)
        return hits
