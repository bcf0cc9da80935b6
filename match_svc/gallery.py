"""The gallery of one store at one moment: immutable, to be searched.

One row a reference, one more for the mean of a person's references, and two indexes of them: the vectors for aligned
probes and those for all others; one index where they are the same. A person that was changed or removed leaves rows
behind whose limit is infinite.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from match_svc.expiry import Times
from match_svc.index import ExactIndex, Floats, Hits, Index, Limits, Positions
from match_svc.people import DIMENSION, Match, Person
from match_svc.policy import Policy, Rules

Numbers = NDArray[np.int32]
Starts = NDArray[np.int64]
Sightings = Sequence[common_pb2.Detection]
"""Where and when each probe was seen."""


class Expired(NamedTuple):
    """How many persons have expired and were not forgotten yet. Rates do not count them."""

    persons: int
    members: Mapping[str, int]
    """By id of the watchlist that they are on."""


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
    """Of aligned probes: no match of a row has less. Who reaches it is judged by the policy."""
    other_limits: Limits
    """Of all other probes; the same object as `limits` where they are the same."""
    policy: Policy
    references: int
    """Of the persons in it."""
    pending: int
    """References that are compared exactly until they are folded into the index."""
    _owners: Numbers
    """(n,) the number of each row's person."""
    _starts: Starts
    """(m,) first row of each person, by number."""
    _numbered: Sequence[Person | None]
    """By number; None for some who are no longer in it."""
    _people: Mapping[str, Person]
    expired: Expired
    """When it was made."""
    _until: Times
    """(m,) when each person expires, by number."""
    serial: int = field(default_factory=itertools.count(1).__next__)
    """Of this very object, in this process. Revisions may come again after a reset of the registry."""

    @property
    def rows(self) -> int:
        """Rows to compare with, those left behind included."""
        return len(self.limits.values)

    @property
    def size(self) -> int:
        """Persons in it, those who have expired included."""
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

    def search(
        self, probes: Floats, is_aligned: NDArray[np.bool_], most: int, now: float, seen: Sightings | None = None
    ) -> list[list[Match]]:
        """For each probe the persons it reaches, best first, `most` at most; `now` in seconds since the epoch.

        `probes` is (b, d) float32, L2-normalised; `is_aligned` (b,) says how each was made, `seen` where and when, if
        that is known.
        """
        found: list[list[Match]] = [[] for _ in range(len(probes))]
        for index, limits, positions in self._shares(is_aligned):
            hits = index.search(probes if positions.size == len(probes) else probes[positions], limits)
            hits = Hits(positions[hits.probes], hits.rows, hits.similarities)
            self._collect(found, hits, most, now, is_aligned, seen)
        self._name(found, probes, is_aligned)
        return found

    def verify(
        self,
        probes: Floats,
        is_aligned: NDArray[np.bool_],
        known: Sequence[tuple[Person, ...]],
        most: int,
        now: float,
        seen: Sightings | None = None,
    ) -> list[list[Match]]:
        """As `search`, but each probe is compared with the persons `known` for it alone (of this very snapshot)."""
        found: list[list[Match]] = [[] for _ in range(len(probes))]
        owners: list[int] = []
        rows: list[int] = []
        for position, people in enumerate(known):
            for person in people:
                start = int(self._starts[person.number])
                owners += [position] * person.rows
                rows += range(start, start + person.rows)
        if not rows:
            return found
        probe, row = np.array(owners, np.intp), np.array(rows, np.intp)
        for index, limits, pairs in self._shares(is_aligned[probe]):
            similar = index.pairs(probes[probe[pairs]], row[pairs])
            reached = np.flatnonzero(similar >= limits.values[row[pairs]])
            hits = Hits(probe[pairs][reached], row[pairs][reached], similar[reached])
            self._collect(found, hits, most, now, is_aligned, seen)
        self._name(found, probes, is_aligned)
        return found

    def likeness(
        self, probes: Floats, is_aligned: NDArray[np.bool_], asked: Sequence[tuple[int, Person]]
    ) -> list[tuple[float, int]]:
        """How similar probes are to persons (of this very snapshot), whatever the limits, for each (position of the
        probe, person): the cosine to the best of references and mean, and the number of the nearest reference."""
        if not asked:
            return []
        counts = np.array([person.rows for _, person in asked])
        firsts = np.cumsum(counts) - counts
        starts = self._starts[[person.number for _, person in asked]]
        rows = np.arange(counts.sum()) + np.repeat(starts - firsts, counts)
        probe = np.repeat([position for position, _ in asked], counts)
        similar = np.empty(len(rows), np.float32)
        for index, _, pairs in self._shares(is_aligned[probe]):
            similar[pairs] = index.pairs(probes[probe[pairs]], rows[pairs])
        best = np.maximum.reduceat(similar, firsts)
        return [
            (similarity, int(similar[first : first + len(person.references)].argmax()))
            for similarity, first, (_, person) in zip(best.tolist(), firsts.tolist(), asked, strict=True)
        ]

    def to_forget(self, until: float) -> list[Person]:
        """Whose grace period (see `people.lapse`) had begun by then, in seconds since the epoch."""
        found = (self._numbered[number] for number in np.flatnonzero(self._until <= until).tolist())
        return [person for person in found if person is not None and self._lapsed(person, until)]

    def _lapsed(self, person: Person, until: float) -> bool:
        return self._people.get(person.poi_id) is person and person.lapses <= until

    def alike(self, probes: Floats, is_aligned: NDArray[np.bool_], least: float, now: float) -> list[dict[str, float]]:
        """For each probe the persons (resource names) with a row of at least this cosine, and the best cosine of each.

        Whatever their limits: for finding them, not matching. Nobody who has expired.
        """
        found: list[dict[str, float]] = [{} for _ in range(len(probes))]
        limits = Limits.of(np.full(self.rows, least, np.float32), least)
        for index, _, positions in self._shares(is_aligned):
            hits = index.search(probes[positions], limits)
            for position, row, similarity in zip(
                positions[hits.probes].tolist(), hits.rows.tolist(), hits.similarities.tolist(), strict=True
            ):
                person = self._numbered[int(self._owners[row])]
                if person is None or self._people.get(person.poi_id) is not person:
                    continue  # left behind by a change or a removal
                if person.expires <= now:
                    continue
                people = found[position]
                people[person.name] = max(people.get(person.name, -1.0), min(1.0, similarity))
        return found

    def still(self, matches: list[Match], sighting: common_pb2.Detection | None = None) -> list[Match]:
        """Those of an older snapshot's matches that are matches in this one: whoever was removed meanwhile, or taken
        off the list, is not. `sighting` says where and when the probe was seen."""
        again = (self._again(match, sighting) for match in matches)
        return [match for match in again if match is not None]

    def _again(self, match: Match, sighting: common_pb2.Detection | None) -> Match | None:
        person = self.person(match.person.poi_id)
        if person is None or not person.references:
            return None
        again = self._judged(person, match.similarity, match.reference, match.aligned, sighting)
        if again is None:
            return None
        by_template, count, alone = match.by_template, match.pooled_faces, match.face_similarity
        return again._replace(by_template=by_template, pooled_faces=count, face_similarity=alone)

    def _judged(
        self,
        person: Person,
        similarity: float,
        reference: str,
        aligned: bool,
        sighting: common_pb2.Detection | None,
    ) -> Match | None:
        """The match that this is, if it is one."""
        verdict = self.policy.judge(person, similarity, aligned, sighting)
        if verdict is None:
            return None
        return Match(
            person,
            similarity,
            verdict.threshold,
            reference,
            verdict.severity,
            verdict.watchlists,
            aligned,
            self.policy.false_match_rate(verdict.threshold, aligned),
            self.policy.false_match_rate(similarity, aligned),
        )

    def _shares(self, is_aligned: NDArray[np.bool_]) -> list[tuple[Index, Limits, Positions]]:
        """Each index, its limits, and the positions that are its to answer."""
        if self.aligned is self.others and self.limits is self.other_limits:
            return [(self.aligned, self.limits, np.arange(len(is_aligned)))]
        shares = (
            (self.aligned, self.limits, np.flatnonzero(is_aligned)),
            (self.others, self.other_limits, np.flatnonzero(~is_aligned)),
        )
        return [share for share in shares if share[2].size]

    def _collect(
        self,
        found: list[list[Match]],
        hits: Hits,
        most: int,
        now: float,
        is_aligned: NDArray[np.bool_],
        seen: Sightings | None,
    ) -> None:
        """Put hits that are matches into `found`, best first: the best row of each person, nobody who has expired."""
        if not hits.rows.size:
            return
        order = np.lexsort((hits.rows, -hits.similarities, hits.probes))
        rows = hits.rows[order]
        judged: set[tuple[int, int]] = set()
        for probe, row, number, similarity in zip(
            hits.probes[order].tolist(),
            rows.tolist(),
            self._owners[rows].tolist(),
            hits.similarities[order].tolist(),
            strict=True,
        ):
            matches = found[probe]
            if len(matches) >= most or (probe, number) in judged:
                continue
            person = self._numbered[number]
            if person is None or person.expires <= now:
                continue
            judged.add((probe, number))  # by their best row: where that is no match, no other is
            at = row - int(self._starts[number])
            by_template = at == len(person.references)
            reference = "" if by_template else person.reference(at)
            match = self._judged(
                person,
                min(1.0, max(-1.0, similarity)),
                reference,
                bool(is_aligned[probe]),
                None if seen is None else seen[probe],
            )
            if match is not None:
                matches.append(match._replace(by_template=by_template) if by_template else match)

    def _name(self, found: list[list[Match]], probes: Floats, is_aligned: NDArray[np.bool_]) -> None:
        """Say of matches by a mean which of the references was nearest."""
        by_mean = [
            (position, place)
            for position, matches in enumerate(found)
            for place, match in enumerate(matches)
            if match.by_template
        ]
        asked = [(position, found[position][place].person) for position, place in by_mean]
        for (position, place), (_, nearest) in zip(by_mean, self.likeness(probes, is_aligned, asked), strict=True):
            match = found[position][place]
            found[position][place] = match._replace(reference=match.person.reference(nearest))


def empty(store: str) -> Snapshot:
    """The gallery of a store that has nobody."""
    nobody = ExactIndex(np.empty((0, DIMENSION), np.float32))
    limits = Limits.of(np.empty(0, np.float32), 0.0)
    policy = Rules(0.0).policy(0, {})
    numbers, starts = np.empty(0, np.int32), np.empty(0, np.int64)
    nothing = Expired(0, {}), np.empty(0, np.float64)
    return Snapshot(store, 0, nobody, nobody, limits, limits, policy, 0, 0, numbers, starts, (), {}, *nothing)
