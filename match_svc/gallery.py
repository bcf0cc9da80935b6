"""The gallery of one store in memory: immutable snapshots to search, and the builder that makes the next one.

One row a reference, in two matrices: the vector for aligned probes and the vector for all others. A snapshot is a view
of the first n rows; the builder only ever writes behind them, so that adding a person copies nothing and disturbs no
search. A person that is changed or removed leaves rows behind whose limit is infinite; when these outnumber the others,
the builder starts new matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from poi.v1 import common_pb2, poi_pb2

from match_svc.index import ExactIndex, Floats, Index
from mesh import embeddings

_log = structlog.get_logger(__name__)

DIMENSION = embeddings.DIMENSIONS[embeddings.FACE_MODEL]
_FIRST_ROWS = 256
_WORTH_COMPACTING = 1024

# What a reference offers, the best for each kind of probe first. On LFW the mean of both embeddings beats the aligned
# one for unaligned probes (TAR .886 against .833 at 0.45), not for aligned ones.
_FOR_ALIGNED = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNALIGNED)
_FOR_OTHERS = (common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_ALIGNED)


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One enrolled person as the gallery knows them: their rows, and what a match says of them."""

    poi_id: str
    name: str
    display_name: str
    severity: common_pb2.Severity.ValueType
    threshold: float | None
    """Their own; None for the store's."""
    expires: float
    """Seconds since the epoch; infinite for never."""
    references: tuple[str, ...]
    """Resource names, one a row."""
    start: int
    """Their first row."""

    @property
    def stop(self) -> int:
        """The row behind their last one."""
        return self.start + len(self.references)


class Match(NamedTuple):
    """A person that a probe reached, by the row that was nearest."""

    person: Person
    similarity: float
    """Cosine, -1 to 1."""
    threshold: float
    reference: str


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The gallery of one store at one revision. Immutable: search it from any thread, for as long as you like."""

    store: str
    revision: int
    """Of the store's last change; the same on every replica."""
    aligned: Index
    others: Index
    limits: Floats
    """(n,) least similarity of each row; infinite for rows that are no longer anybody's."""
    _owners: Sequence[Person]
    _people: Mapping[str, Person]
    serial: int = field(default_factory=itertools.count(1).__next__)
    """Of this very object, in this process. Revisions may come again after a reset of the registry."""

    @property
    def rows(self) -> int:
        """Rows to compare with, those left behind included."""
        return len(self.limits)

    @property
    def size(self) -> int:
        """Persons in it."""
        return len(self._people)

    def person(self, poi_id: str) -> Person | None:
        """The person as of this snapshot; None when unknown, or changed since."""
        found = self._people.get(poi_id)
        # The builder may be ahead of this snapshot.
        return found if found is not None and found.stop <= self.rows else None

    def search(self, probes: Floats, is_aligned: NDArray[np.bool_], most: int, now: float) -> list[list[Match]]:
        """For each probe the persons it reaches, best first, `most` at most; `now` in seconds since the epoch.

        `probes` is (b, d) float32, L2-normalised; `is_aligned` (b,) says how each was made.
        """
        found: list[list[Match]] = [[] for _ in range(len(probes))]
        for index, chosen in ((self.aligned, is_aligned), (self.others, ~is_aligned)):
            positions = np.flatnonzero(chosen)
            if not positions.size:
                continue
            hits = index.search(probes if positions.size == len(probes) else probes[positions], self.limits)
            if hits.probes.size:
                best_first = np.lexsort((hits.rows, -hits.similarities, hits.probes))
                self._collect(
                    found,
                    positions[hits.probes[best_first]].tolist(),
                    hits.rows[best_first].tolist(),
                    hits.similarities[best_first].tolist(),
                    most,
                    now,
                )
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
                owners += [position] * len(person.references)
                rows += range(person.start, person.stop)
        if not rows:
            return found
        probe, row = np.array(owners, np.intp), np.array(rows, np.intp)
        for index, chosen in ((self.aligned, is_aligned[probe]), (self.others, ~is_aligned[probe])):
            pairs = np.flatnonzero(chosen)
            if not pairs.size:
                continue
            similar = index.pairs(probes[probe[pairs]], row[pairs])
            reached = np.flatnonzero(similar >= self.limits[row[pairs]])
            if reached.size:
                of, at, similar = probe[pairs][reached], row[pairs][reached], similar[reached]
                best_first = np.lexsort((at, -similar, of))
                sorted_of, sorted_at, sorted_similar = of[best_first], at[best_first], similar[best_first]
                self._collect(found, sorted_of.tolist(), sorted_at.tolist(), sorted_similar.tolist(), most, now)
        return found

    def _collect(
        self,
        found: list[list[Match]],
        probes: list[int],
        rows: list[int],
        similarities: list[float],
        most: int,
        now: float,
    ) -> None:
        """Put hits, best first by probe, into `found`: the best row of each person, nobody who has expired."""
        seen: set[tuple[int, str]] = set()
        for probe, row, similarity in zip(probes, rows, similarities, strict=True):
            matches = found[probe]
            if len(matches) >= most:
                continue
            person = self._owners[row]
            key = (probe, person.poi_id)
            if key in seen or person.expires <= now:
                continue
            seen.add(key)
            reference = person.references[row - person.start]
            matches.append(Match(person, min(1.0, max(-1.0, similarity)), float(self.limits[row]), reference))


class Builder:
    """Makes the snapshots of one store. One thread at a time may use it; its snapshots are anybody's."""

    def __init__(self, store: str, threshold: float) -> None:
        """`threshold` is the store's until told otherwise."""
        self._store = store
        self._threshold = threshold
        self._start_over(_FIRST_ROWS)

    def _start_over(self, capacity: int) -> None:
        self._aligned: Floats = np.empty((capacity, DIMENSION), np.float32)
        self._others: Floats = np.empty((capacity, DIMENSION), np.float32)
        self._limits: Floats = np.empty(capacity, np.float32)
        self._owners: list[Person] = []
        self._people: dict[str, Person] = {}
        self._left_behind = 0

    def apply(self, changes: Mapping[str, poi_pb2.Poi | None], threshold: float, revision: int) -> Snapshot:
        """The next snapshot: persons replaced or, where None, removed, and the store's threshold."""
        gone = [self._people.pop(poi_id) for poi_id in changes if poi_id in self._people]
        moved = threshold != self._threshold
        self._threshold = threshold
        if gone or moved:
            self._limits = self._limits.copy()  # snapshots out there look at the old one
        for person in gone:
            self._limits[person.start : person.stop] = np.inf
            self._left_behind += len(person.references)
        if moved:
            for person in self._people.values():
                self._limits[person.start : person.stop] = self._limit(person)
        first = len(self._owners)
        for poi in changes.values():
            if poi is not None:
                self._add(poi)
        self._normalise(slice(first, len(self._owners)))
        if self._left_behind > max(len(self._owners) // 2, _WORTH_COMPACTING):
            self._compact()
        return self._publish(revision)

    def _publish(self, revision: int) -> Snapshot:
        rows = len(self._owners)
        return Snapshot(
            self._store,
            revision,
            ExactIndex(self._aligned[:rows]),
            ExactIndex(self._others[:rows]),
            self._limits[:rows],
            self._owners,
            self._people,
        )

    def _limit(self, person: Person) -> float:
        return self._threshold if person.threshold is None else person.threshold

    def _add(self, poi: poi_pb2.Poi) -> None:
        usable = [(name, pair) for name, pair in map(_vectors, poi.references) if pair is not None]
        if len(usable) < len(poi.references):
            _log.error("references_unusable", poi=poi.name, count=len(poi.references) - len(usable))
        person = Person(
            poi_id=poi.name.rpartition("/")[2],
            name=poi.name,
            display_name=poi.display_name,
            severity=poi.severity,
            threshold=poi.threshold if poi.HasField("threshold") else None,
            expires=poi.expire_time.ToNanoseconds() / 1e9 if poi.HasField("expire_time") else float("inf"),
            references=tuple(name for name, _ in usable),
            start=len(self._owners),
        )
        self._put(person, [pair for _, pair in usable])

    def _put(self, person: Person, vectors: Sequence[tuple[Floats, Floats]]) -> None:
        self._reserve(person.stop)
        for row, (aligned, other) in enumerate(vectors, person.start):
            self._aligned[row], self._others[row] = aligned, other
        self._limits[person.start : person.stop] = self._limit(person)
        self._owners += [person] * len(vectors)
        self._people[person.poi_id] = person

    def _reserve(self, rows: int) -> None:
        capacity = len(self._limits)
        if rows <= capacity:
            return
        used = len(self._owners)
        aligned, others, limits = self._aligned[:used], self._others[:used], self._limits[:used]
        more = max(rows, capacity * 2)
        self._aligned = np.empty((more, DIMENSION), np.float32)
        self._others = np.empty((more, DIMENSION), np.float32)
        self._limits = np.empty(more, np.float32)
        self._aligned[:used], self._others[:used], self._limits[:used] = aligned, others, limits

    def _normalise(self, rows: slice) -> None:
        """Bring new rows to norm 1. What has no direction is nobody's; nothing such passes the checks of enrolment."""
        for matrix in (self._aligned, self._others):
            block = matrix[rows]
            with np.errstate(over="ignore", invalid="ignore"):
                norms = np.sqrt(np.einsum("ij,ij->i", block, block))
            bad = ~(np.isfinite(norms) & (norms > 0))
            if bad.any():
                _log.error("references_unusable", store=self._store, count=int(bad.sum()))
                self._limits[rows][bad] = np.inf
                block[bad], norms[bad] = 0.0, 1.0
            block /= norms[:, None]

    def _compact(self) -> None:
        aligned, others, people = self._aligned, self._others, list(self._people.values())
        living = len(self._owners) - self._left_behind
        self._start_over(max(_FIRST_ROWS, 2 * living))
        for old in people:
            rows = range(old.start, old.stop)
            self._put(replace(old, start=len(self._owners)), [(aligned[row], others[row]) for row in rows])


def empty(store: str) -> Snapshot:
    """The gallery of a store that has nobody."""
    nobody = ExactIndex(np.empty((0, DIMENSION), np.float32))
    return Snapshot(store, 0, nobody, nobody, np.empty(0, np.float32), (), {})


def _vectors(reference: poi_pb2.Reference) -> tuple[str, tuple[Floats, Floats] | None]:
    """The reference's name and its vectors for aligned and for other probes; None when it holds nothing of use."""
    by_alignment: dict[int, Floats] = {}
    for embedding in reference.embeddings:
        if embedding.model == embeddings.FACE_MODEL and len(embedding.vector) == DIMENSION * 4:
            alignment = embedding.alignment or common_pb2.ALIGNMENT_UNALIGNED
            by_alignment[alignment] = np.frombuffer(embedding.vector, np.dtype("<f4"))
    if not by_alignment:
        return reference.name, None
    return reference.name, (_first(by_alignment, _FOR_ALIGNED), _first(by_alignment, _FOR_OTHERS))


def _first(by_alignment: Mapping[int, Floats], order: Iterable[int]) -> Floats:
    return next(by_alignment[alignment] for alignment in order if alignment in by_alignment)
