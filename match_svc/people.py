"""Enrolled persons as the gallery knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from poi.v1 import common_pb2, poi_pb2

from match_svc import templates
from mesh import embeddings

DIMENSION = embeddings.DIMENSIONS[embeddings.FACE_MODEL]

# What a reference offers, the best for each kind of probe first. On LFW the mean of both embeddings beats the aligned
# one for unaligned probes (TAR .886 against .833 at 0.45), not for aligned ones.
_FOR_ALIGNED = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNALIGNED)
_FOR_OTHERS = (common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_ALIGNED)
_BYTES = DIMENSION * 4
_NEVER = float("inf")


@dataclass(slots=True, eq=False)  # and not frozen, which would be a tenth of the load of a large gallery
class Person:
    """One enrolled person: what a match says of them, and how to find their rows. Not to be changed."""

    number: int
    """In the order in which this process learnt of persons and of their changes."""
    poi_id: str
    name: str
    display_name: str
    severity: common_pb2.Severity.ValueType
    threshold: float | None
    """Their own; None for the store's."""
    expires: float
    """Seconds since the epoch; infinite for never."""
    references: tuple[str, ...]
    """Ids, one a row; behind these rows is that of the mean, where there are two or more."""
    watchlists: tuple[str, ...] = ()
    """Ids of the lists that they are on."""
    lapses: float = _NEVER
    """See `lapse`."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return templates.row_count(len(self.references))

    def reference(self, at: int) -> str:
        """Resource name of one reference."""
        return f"{self.name}/references/{self.references[at]}"


class Match(NamedTuple):
    """A person that a probe reached, by the row that was nearest."""

    person: Person
    similarity: float
    """Cosine, -1 to 1."""
    threshold: float
    reference: str
    """Resource name of the reference that was nearest."""
    severity: common_pb2.Severity.ValueType
    """By the watchlists; the person's own where they say none."""
    watchlists: tuple[str, ...]
    """Names of those whose conditions it meets, the highest severity first."""
    aligned: bool
    """How the probe was made."""
    false_match_rate: float
    """Of strangers at the threshold."""
    similarity_false_match_rate: float
    """Of strangers at the similarity."""
    by_template: bool = False
    """The mean of the references was nearer than any of them."""
    pooled_faces: int = 1
    """How many faces of the track `similarity` is of."""
    face_similarity: float | None = None
    """Cosine of this very face alone; None where `similarity` is that."""


def make(number: int, poi: poi_pb2.Poi) -> tuple[Person, list[bytes], list[bytes], list[float]]:
    """The person of a record, and of each reference that is of use the vectors for aligned and for other probes, and
    its weight."""
    references, aligned, others, usable = [], [], [], []
    for reference in poi.references:
        pair = _vectors(reference)
        if pair is not None:
            references.append(reference.name.rpartition("/")[2])
            aligned.append(pair[0])
            others.append(pair[1])
            usable.append(reference)
    name = poi.name
    expires = expire_seconds(poi)
    person = Person(
        number,
        poi_id=name.rpartition("/")[2],
        name=name,
        display_name=poi.display_name,
        severity=poi.severity,
        threshold=poi.threshold if poi.HasField("threshold") else None,
        expires=expires,
        references=tuple(references),
        watchlists=tuple([watchlist.rpartition("/")[2] for watchlist in poi.watchlists]),
        lapses=expires if expires == _NEVER else lapse(poi, expires),
    )
    return person, aligned, others, templates.weights(usable)


def expire_seconds(poi: poi_pb2.Poi) -> float:
    """When a person expires, in seconds since the epoch; infinite for never."""
    if not poi.HasField("expire_time"):
        return _NEVER
    expiry = poi.expire_time
    return expiry.seconds + expiry.nanos / 1e9


def lapse(poi: poi_pb2.Poi, expires: float | None = None) -> float:
    """When the grace period begins after which a person is forgotten: with their expiry, or with the last change where
    that came later. So an end that was set in the past, by a slip of the pen, can be taken back."""
    changed = poi.update_time
    return max(expire_seconds(poi) if expires is None else expires, changed.seconds + changed.nanos / 1e9)


def _vectors(reference: poi_pb2.Reference) -> tuple[bytes, bytes] | None:
    by_alignment: dict[int, bytes] = {}
    for embedding in reference.embeddings:
        vector = embedding.vector
        if len(vector) == _BYTES and embedding.model == embeddings.FACE_MODEL:
            by_alignment[embedding.alignment or common_pb2.ALIGNMENT_UNALIGNED] = vector
    if len(by_alignment) == 1:
        (vector,) = by_alignment.values()
        return vector, vector
    if not by_alignment:
        return None
    return _first(by_alignment, _FOR_ALIGNED), _first(by_alignment, _FOR_OTHERS)


def _first(by_alignment: Mapping[int, bytes], order: Iterable[int]) -> bytes:
    return next(by_alignment[alignment] for alignment in order if alignment in by_alignment)
