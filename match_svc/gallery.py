"""The gallery of one store at one moment: immutable, to be searched.

One row a reference, and two indexes of them: the vectors for aligned probes and those for all others; one index where
they are the same. A person that was changed or removed leaves rows behind whose limit is infinite.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from match_svc.index import ExactIndex, Floats, Hits, Index, Limits, Positions
from match_svc.people import DIMENSION, Match, Person

Numbers = NDArray[np.int32]
Starts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The gallery of one store at one revision. Immutable: search it from any thread, for as long as you like."""

    store: str
    revision: int
    """Of the store's last change; the same on every replica."""
    aligned: Index
    others: Index
    """The same object as `aligned` where all probes meet the same vectors."""
    limits: Limits
    references: int
    """Of the persons in it."""
    pending: int
    """Rows that are compared exactly until they are folded into the index."""
    _owners: Numbers
    """(n,) the number of each row's person."""
    _starts: Starts
    """(m,) first row of each person, by number."""
    _numbered: Sequence[Person | None]
    """By number; None for some who are no longer in it."""
    _people: Mapping[str, Person]
    serial: int = field(default_factory=itertools.count(1).__next__)
    """Of this very object, in this process. Revisions may come again after a reset of the registry."""

    @property
    def rows(self) -> int:
        """Rows to compare with, those left behind included."""
        return len(self.limits.values)

    @property
    def size(self) -> int:
        """Persons in it."""
        return len(self._people)

    @property
    def kind(self) -> str:
        """Of its index: `exact` or `quantised`."""
        return self.aligned.kind

    def person(self, poi_id: str) -> Person | None:
        """The person as of this snapshot; None when unknown, or changed since."""
        found = self._people.get(poi_id)
        # The builder may be ahead of this snapshot.
        return found if found is not None and found.number < len(self._starts) else None

    def search(self, probes: Floats, is_aligned: NDArray[np.bool_], most: int, now: float) -> list[list[Match]]:
        """For each probe the persons it reaches, best first, `most` at most; `now` in seconds since the epoch.

        `probes` is (b, d) float32, L2-normalised; `is_aligned` (b,) says how each was made.
        """
        found: list[list[Match]] = [[] for _ in range(len(probes))]
        for index, positions in self._shares(is_aligned):
            hits = index.search(probes if positions.size == len(probes) else probes[positions], self.limits)
            self._collect(found, Hits(positions[hits.probes], hits.rows, hits.similarities), most, now)
        return found

    def verify(
        self, probes: Floats, is_aligned: NDArray[np.bool_], known: Sequence[tuple[Person, ...]], most: int, now: float
    ) -> list[list[Match]]:
        """As `search`, but each probe is compared with the persons `known` for it alone (of this very snapshot)."""
        found: list[list[Match]] = [[] for _ in range(len(probes))]
        owners: list[int] = []
        rows: list[int] = []
        for position, people in enumerate(known):
            for person in people:
                start = int(self._starts[person.number])
                owners += [position] * len(person.references)
                rows += range(start, start + len(person.references))
        if not rows:
            return found
        probe, row = np.array(owners, np.intp), np.array(rows, np.intp)
        for index, pairs in self._shares(is_aligned[probe]):
            similar = index.pairs(probes[probe[pairs]], row[pairs])
            reached = np.flatnonzero(similar >= self.limits.values[row[pairs]])
            self._collect(found, Hits(probe[pairs][reached], row[pairs][reached], similar[reached]), most, now)
        return found

    def alike(self, probes: Floats, is_aligned: NDArray[np.bool_], least: float) -> list[dict[str, float]]:
        """For each probe the persons (resource names) with a row of at least this cosine, and the best cosine of each.

        Everybody who is enrolled, whatever their limits and whether they have expired: for finding them, not matching.
        """
        found: list[dict[str, float]] = [{} for _ in range(len(probes))]
        limits = Limits.of(np.full(self.rows, least, np.float32), least)
        for index, positions in self._shares(is_aligned):
            hits = index.search(probes[positions], limits)
            for position, row, similarity in zip(
                positions[hits.probes].tolist(), hits.rows.tolist(), hits.similarities.tolist(), strict=True
            ):
                person = self._numbered[int(self._owners[row])]
                if person is None or self._people.get(person.poi_id) is not person:
                    continue  # left behind by a change or a removal
                people = found[position]
                people[person.name] = max(people.get(person.name, -1.0), min(1.0, similarity))
        return found

    def still(self, matches: list[Match]) -> list[Match]:
        """Those of an older snapshot's matches that are matches in this one: whoever was removed meanwhile is not."""
        return [match for match in matches if self._is_match(match)]

    def _is_match(self, match: Match) -> bool:
        person = self.person(match.person.poi_id)
        if person is None or not person.references:
            return False
        return person is match.person or match.similarity >= self.limits.values[self._starts[person.number]]

    def _shares(self, is_aligned: NDArray[np.bool_]) -> list[tuple[Index, Positions]]:
        """Each index and the positions that are its to answer."""
        if self.aligned is self.others:
            return [(self.aligned, np.arange(len(is_aligned)))]
        shares = (self.aligned, np.flatnonzero(is_aligned)), (self.others, np.flatnonzero(~is_aligned))
        return [(index, positions) for index, positions in shares if positions.size]

    def _collect(self, found: list[list[Match]], hits: Hits, most: int, now: float) -> None:
        """Put hits into `found`, best first: the best row of each person, nobody who has expired."""
        if not hits.rows.size:
            return
        order = np.lexsort((hits.rows, -hits.similarities, hits.probes))
        rows = hits.rows[order]
        seen: set[tuple[int, int]] = set()
        for probe, row, number, similarity in zip(
            hits.probes[order].tolist(),
            rows.tolist(),
            self._owners[rows].tolist(),
            hits.similarities[order].tolist(),
            strict=True,
        ):
            matches = found[probe]
            if len(matches) >= most or (probe, number) in seen:
                continue
            person = self._numbered[number]
            if person is None or person.expires <= now:
                continue
            seen.add((probe, number))
            reference = person.reference(row - int(self._starts[number]))
            matches.append(Match(person, min(1.0, max(-1.0, similarity)), float(self.limits.values[row]), reference))


def empty(store: str) -> Snapshot:
    """The gallery of a store that has nobody."""
    nobody = ExactIndex(np.empty((0, DIMENSION), np.float32))
    limits = Limits.of(np.empty(0, np.float32), 0.0)
    return Snapshot(store, 0, nobody, nobody, limits, 0, 0, np.empty(0, np.int32), np.empty(0, np.int64), (), {})
