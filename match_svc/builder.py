"""Makes the snapshots of one store.

Rows are a large base, indexed when it was folded, and a small tail that is compared exactly: adding a person copies
nothing and disturbs no search. Whoever is changed or removed leaves rows behind whose limit is infinite. When tail or
left-over rows become many they are folded into a new base by another thread, while this goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from poi.v1 import poi_pb2

from match_svc import people
from match_svc.bounded import LEAST_ROWS
from match_svc.folding import Base, Fold, Folded
from match_svc.gallery import Snapshot
from match_svc.index import ExactIndex, Floats, Index, Layered, Limits
from match_svc.people import DIMENSION, Person
from match_svc.rows import Column, Vectors, read

_log = structlog.get_logger(__name__)

_WORTH_FOLDING: Final = 1024
"""Fewer rows, new or left behind, cost a search nothing that one would notice."""
_TAIL_SHARE: Final = 8
_DEAD_SHARE: Final = 4


class Builder:
    """The one that changes a store's gallery. One thread at a time may use it; its snapshots are anybody's."""

    def __init__(self, store: str, threshold: float, crossover: int) -> None:
        """`threshold` is the store's until told otherwise; from `crossover` rows on the base is quantised, which may be
        set anew at any time."""
        self._store = store
        self._threshold = threshold
        self.crossover = crossover
        self._revision = 0
        self._base = Base.empty(DIMENSION)
        self._tail = Vectors(DIMENSION)
        self._limits = Column((), np.float32)
        self._owners = Column((), np.int32)
        self._starts = Column((), np.int64)
        # By number, for nobody else to see: whether the person is still there, and their threshold (NaN: the store's).
        self._alive = Column((), np.bool_)
        self._own = Column((), np.float32)
        self._numbered: list[Person | None] = []
        self._people: dict[str, Person] = {}
        self._references = 0

    def apply(self, changes: Mapping[str, poi_pb2.Poi | None], threshold: float, revision: int) -> Snapshot:
        """The next snapshot: persons replaced or, where None, removed, and the store's threshold."""
        gone = [self._people.pop(poi_id) for poi_id in changes if poi_id in self._people]
        moved = threshold != self._threshold
        self._threshold, self._revision = threshold, revision
        if gone or moved:
            limits = self._limits.own()  # snapshots out there look at the old one
            for person in gone:
                self._alive.items[person.number] = False
                self._references -= len(person.references)
                start = int(self._starts.items[person.number])
                limits[start : start + len(person.references)] = np.inf
            if moved:
                least = np.where(self._alive.items, self._least(self._own.items), np.float32(np.inf))
                limits[:] = least[self._owners.items]
        self._add([poi for poi in changes.values() if poi is not None])
        return self._publish()

    def due(self) -> bool:
        """Whether a folding is worth its while."""
        rows, living = len(self._owners), self._references
        dead = rows - living
        if dead > max(living, _WORTH_FOLDING):
            return True
        if living < min(LEAST_ROWS, self.crossover):
            return False
        tail = len(self._tail)
        return (
            (self._base.aligned.kind == "exact" and living >= self.crossover)
            or tail > max(len(self._base) // _TAIL_SHARE, _WORTH_FOLDING)
            or dead > max(rows // _DEAD_SHARE, _WORTH_FOLDING)
        )

    def fold(self) -> Fold:
        """What is to be folded now; run it elsewhere, then `install` the outcome."""
        alive = self._alive.items[self._owners.items]
        return Fold(self._base, self._tail, len(self._tail), alive, int(alive.sum()) >= self.crossover)

    def install(self, folded: Folded) -> Snapshot:
        """The next snapshot, of the same revision, with the outcome of the last `fold` as base."""
        moved, base = folded.moved, folded.base
        taken = len(moved)
        shift = len(base) - taken
        stayed = moved >= 0
        since = slice(taken - len(self._base), None)
        tail = Vectors(DIMENSION)
        tail.extend(self._tail.aligned[since], None if self._tail.same else self._tail.others[since])
        self._limits = _moved(self._limits, stayed, taken)
        self._owners = _moved(self._owners, stayed, taken)
        # Where the first row of each person went. Of those who are gone it may be anywhere, and nobody asks.
        starts = self._starts.items
        places = np.append(moved, 0)[np.minimum(starts, taken)]
        self._starts = Column((), np.int64)
        self._starts.extend(np.where(starts < taken, places, starts + shift))
        alive = self._alive.items.tolist()
        self._numbered = [person if lives else None for person, lives in zip(self._numbered, alive, strict=True)]
        self._base, self._tail = base, tail
        return self._publish()

    def _publish(self) -> Snapshot:
        base, tail = self._base, self._tail
        aligned = _layered(base.aligned, tail.aligned)
        same = base.same and tail.same
        return Snapshot(
            self._store,
            self._revision,
            aligned,
            aligned if same else _layered(base.others, tail.others),
            Limits.of(self._limits.items, self._threshold),
            self._references,
            len(tail),
            self._owners.items,
            self._starts.items,
            self._numbered,
            self._people,
        )

    def _add(self, pois: list[poi_pb2.Poi]) -> None:
        added: list[Person] = []
        aligned: list[bytes] = []
        others: list[bytes] = []
        for poi in pois:
            person, for_aligned, for_others = people.make(len(self._numbered) + len(added), poi)
            if len(for_aligned) < len(poi.references):
                _log.error("references_unusable", poi=poi.name, count=len(poi.references) - len(for_aligned))
            added.append(person)
            aligned += for_aligned
            others += for_others
        if not added:
            return
        counts = np.array([len(person.references) for person in added])
        first = len(self._owners)
        bad = self._put(aligned, others)
        numbers = np.array([person.number for person in added], np.int32)
        own = np.array([np.nan if one.threshold is None else one.threshold for one in added], np.float32)
        self._owners.extend(np.repeat(numbers, counts))
        self._limits.extend(np.where(bad, np.float32(np.inf), np.repeat(self._least(own), counts)))
        self._starts.extend(first + np.cumsum(counts) - counts)
        self._own.extend(own)
        self._alive.extend(np.ones(len(added), np.bool_))
        self._numbered += added
        self._people.update((person.poi_id, person) for person in added)
        self._references += int(counts.sum())

    def _put(self, aligned: list[bytes], others: list[bytes]) -> NDArray[np.bool_]:
        """Put the vectors behind the tail; which of the rows are of no use."""
        vectors, bad = read(aligned, DIMENSION)
        if all(one is other for one, other in zip(aligned, others, strict=True)):
            self._tail.extend(vectors, None)
        else:
            other_vectors, other_bad = read(others, DIMENSION)
            bad |= other_bad
            self._tail.extend(vectors, other_vectors)
        if bad.any():
            _log.error("references_unusable", store=self._store, count=int(bad.sum()))
        return bad

    def _least(self, own: Floats) -> Floats:
        least: Floats = np.where(np.isnan(own), np.float32(self._threshold), own)
        return least


def _layered(base: Index, tail: Floats) -> Index:
    if not len(base):
        return ExactIndex(tail)
    return Layered(base, ExactIndex(tail))


def _moved(column: Column, stayed: NDArray[np.bool_], taken: int) -> Column:
    """The rows that stayed, then those that came since."""
    items = column.items
    after = Column((), items.dtype)
    after.extend(items[:taken][stayed])
    after.extend(items[taken:])
    return after
