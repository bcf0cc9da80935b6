"""Makes the snapshots of one store.

Rows are a large base, indexed when it was folded, and a small tail that is compared exactly: adding a person copies
nothing and disturbs no search. Whoever is changed or removed leaves rows behind whose limit is infinite. When tail or
left-over rows become many they are folded into a new base by another thread, while this goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from poi.v1 import poi_pb2

from match_svc import people
from match_svc.bounded import LEAST_ROWS
from match_svc.expiry import Expiries
from match_svc.folding import Base, Fold, Folded
from match_svc.gallery import Expired, Snapshot
from match_svc.index import ExactIndex, Floats, Index, Layered
from match_svc.limits import RowLimits, usual
from match_svc.people import DIMENSION, Person
from match_svc.policy import Rules
from match_svc.rows import Column, Vectors, read
from match_svc.templates import Layout

_log = structlog.get_logger(__name__)

_WORTH_FOLDING: Final = 1024
"""Fewer rows, new or left behind, cost a search nothing that one would notice."""
_TAIL_SHARE: Final = 8
_DEAD_SHARE: Final = 4


class Builder:
    """The one that changes a store's gallery. One thread at a time may use it; its snapshots are anybody's."""

    def __init__(
        self, store: str, rules: Rules | float, crossover: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`rules` are the store's until told otherwise, a number being its threshold; from `crossover` rows on the base
        is quantised, which may be set anew at any time. `clock`: seconds since 1970."""
        self._store = store
        self._clock = clock
        self._rules = _rules(rules)
        self.crossover = crossover
        self._revision = 0
        self._base = Base.empty(DIMENSION)
        self._tail = Vectors(DIMENSION)
        self._limits = RowLimits()
        self._owners = Column((), np.int32)
        self._starts = Column((), np.int64)
        # By number, for nobody else to see: whether the person is still there, and which of the terms are theirs.
        self._alive = Column((), np.bool_)
        self._terms_of = Column((), np.int32)
        # (own threshold, watchlists) -> number of these terms, by which are the limits and how many persons have them.
        self._terms: dict[tuple[float | None, tuple[str, ...]], int] = {}
        self._least: list[tuple[float, float]] = []
        self._having: list[int] = []
        # Rates are for those who can be matched: who has expired is counted apart.
        self._expiries = Expiries()
        self._expired = 0
        self._members: Counter[str] = Counter()
        self._expired_members: Counter[str] = Counter()
        self._policy = self._rules.policy(0, self._members)
        self._numbered: list[Person | None] = []
        self._people: dict[str, Person] = {}
        self._references = 0
        self._living = 0  # rows, those of means too
        self._tail_means = self._folded_means = 0  # rows of the tail that are no references; those being folded

    def apply(self, changes: Mapping[str, poi_pb2.Poi | None], rules: Rules | float, revision: int) -> Snapshot:
        """The next snapshot: persons replaced or, where None, removed, and the store's rules."""
        now = self._clock()
        gone = [self._people.pop(poi_id) for poi_id in changes if poi_id in self._people]
        self._revision = revision
        for person in gone:
            self._alive.items[person.number] = False
            self._references -= len(person.references)
            self._living -= person.rows
            self._having[int(self._terms_of.items[person.number])] -= 1
            self._count(person, -1, self._expiries.remove(person.number))
        if gone:
            starts = [int(self._starts.items[person.number]) for person in gone]
            self._limits.never(slice(start, start + person.rows) for start, person in zip(starts, gone, strict=True))
        self._add([poi for poi in changes.values() if poi is not None], now)
        turned = self._turn(now)
        self._obey(_rules(rules), bool(changes) or turned)
        return self._publish()

    def outdated(self) -> bool:
        """Whether persons have expired since the last snapshot, so that one is worth making without any change."""
        return self._expiries.due(self._clock())

    def due(self) -> bool:
        """Whether a folding is worth its while."""
        rows, living = len(self._owners), self._living
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
        self._folded_means = self._tail_means
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
        self._limits.move(lambda column: _moved(column, stayed, taken))
        self._owners = _moved(self._owners, stayed, taken)
        # Where the first row of each person went. Of those who are gone it may be anywhere, and nobody asks.
        starts = self._starts.items
        places = np.append(moved, 0)[np.minimum(starts, taken)]
        self._starts = Column((), np.int64)
        self._starts.extend(np.where(starts < taken, places, starts + shift))
        alive = self._alive.items.tolist()
        self._numbered = [person if lives else None for person, lives in zip(self._numbered, alive, strict=True)]
        self._base, self._tail = base, tail
        self._tail_means -= self._folded_means
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
            *self._limits.publish(self._usual()),
            self._policy,
            self._references,
            min(self._references, len(tail) - self._tail_means),  # the tail has rows of persons who changed, too
            self._owners.items,
            self._starts.items,
            self._numbered,
            self._people,
            Expired(self._expired, dict(self._expired_members)),
            self._expiries.until,
        )

    def _add(self, pois: list[poi_pb2.Poi], now: float) -> None:
        added: list[Person] = []
        aligned: list[bytes] = []
        others: list[bytes] = []
        weights: list[float] = []
        for poi in pois:
            person, for_aligned, for_others, each = people.make(len(self._numbered) + len(added), poi)
            if len(for_aligned) < len(poi.references):
                _log.error("references_unusable", poi=poi.name, count=len(poi.references) - len(for_aligned))
            added.append(person)
            aligned += for_aligned
            others += for_others
            weights += each
        if not added:
            return
        layout = Layout(np.array([len(person.references) for person in added]), weights)
        counts = layout.rows
        first = len(self._owners)
        bad = self._put(aligned, others, layout)
        numbers = np.array([person.number for person in added], np.int32)
        terms = np.array([self._terms_for(person) for person in added], np.int32)
        expired = self._expiries.add([person.expires for person in added], now)
        for person, has_expired in zip(added, expired, strict=True):
            if has_expired or person.watchlists:
                self._count(person, 1, has_expired)
        least = np.repeat(np.array(self._least, np.float32)[terms], counts, axis=0)
        self._owners.extend(np.repeat(numbers, counts))
        self._limits.extend(np.where(bad[:, None], np.float32(np.inf), least))
        self._starts.extend(first + np.cumsum(counts) - counts)
        self._terms_of.extend(terms)
        self._alive.extend(np.ones(len(added), np.bool_))
        self._numbered += added
        self._people.update((person.poi_id, person) for person in added)
        self._references += len(aligned)
        self._living += int(counts.sum())
        self._tail_means += layout.means

    def _put(self, aligned: list[bytes], others: list[bytes], layout: Layout) -> NDArray[np.bool_]:
        """Put the vectors and the means of them behind the tail; which of the rows are of no use."""
        vectors, bad = layout.filled(*read(aligned, DIMENSION))
        if all(one is other for one, other in zip(aligned, others, strict=True)):
            self._tail.extend(vectors, None)
        else:
            other_vectors, other_bad = layout.filled(*read(others, DIMENSION))
            bad |= other_bad
            self._tail.extend(vectors, other_vectors)
        if bad.any():
            _log.error("references_unusable", store=self._store, count=int(bad.sum()))
        return bad

    def _terms_for(self, person: Person) -> int:
        """The number of their terms, which one more now has."""
        key = person.threshold, person.watchlists
        terms = self._terms.setdefault(key, len(self._terms))
        if terms == len(self._least):
            self._least.append(self._policy.loosest(*key))
            self._having.append(0)
        self._having[terms] += 1
        return terms

    def _count(self, person: Person, by: int, expired: bool) -> None:
        """Count a person in, or out again, with those who can be matched or with those who have expired."""
        members = self._expired_members if expired else self._members
        self._expired += by if expired else 0
        for watchlist_id in person.watchlists:
            members[watchlist_id] += by

    def _turn(self, now: float) -> bool:
        """Count anew whose time has come; whether there was anybody."""
        if not self._expiries.due(now):
            return False
        turned = self._expiries.turn(now)
        for numbers, expired in ((turned.expired, True), (turned.back, False)):
            for number in numbers:
                person = self._numbered[number]
                if person is not None:
                    self._count(person, -1, not expired)
                    self._count(person, 1, expired)
        return bool(turned.expired or turned.back)

    def _obey(self, rules: Rules, changed: bool) -> None:
        """Set all limits to what the rules come to now, where that is something else."""
        if rules is self._rules and not (changed and rules.by_number):
            return
        self._rules = rules
        self._policy = rules.policy(len(self._people) - self._expired, self._members)
        least = [self._policy.loosest(*key) for key in self._terms]
        if least != self._least:
            self._least = least
            of_persons = np.array(least, np.float32).reshape(-1, 2)[self._terms_of.items]
            of_persons[~self._alive.items] = np.inf
            self._limits.replace(of_persons[self._owners.items])

    def _usual(self) -> tuple[float, float]:
        aligned, others = ([least[kind] for least in self._least] for kind in (0, 1))
        return usual(aligned, self._having), usual(others, self._having)


def _rules(rules: Rules | float) -> Rules:
    return rules if isinstance(rules, Rules) else Rules(rules)


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
