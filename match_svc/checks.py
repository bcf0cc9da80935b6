"""Whether faces may be enrolled: likely duplicates, faces that disagree, and what to answer of all that was found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from poi.v1 import common_pb2, poi_pb2

from match_svc.gallery import Snapshot
from match_svc.people import DIMENSION
from match_svc.photos import Face
from mesh.embeddings import FACE_MODEL, Vector, decode_batch, normalise
from mesh.errors import FailedPrecondition

Gallery: TypeAlias = Callable[[str], Awaitable[Snapshot]]
"""store -> its gallery, with all that the registry has at the time of asking."""

_MOST_DUPLICATES: Final = 10
# What two references are compared by, best first: both must have been made in the same way, where they can be.
_KINDS: Final = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_MEAN, common_pb2.ALIGNMENT_UNALIGNED)
_LONE: Final = ("NO_FACE", "MULTIPLE_FACES")
"""Reasons that a refusal carries itself, where there is no other problem with the photo."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Where faces count as alike, and where as different. Cosines."""

    duplicate: float
    """A person with a reference at least so similar is likely the same one."""
    disagreement: float
    """Faces that are less similar look like different people."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a caller wants in spite of what is found."""

    duplicate: bool
    disagreement: bool


class Checks:
    """Compares new faces with each other and with the gallery.

    Two enrolments of one person at the same moment, by different callers, may not see each other: both are enrolled.
    """

    def __init__(self, likeness: Likeness, gallery: Gallery) -> None:
        self._likeness = likeness
        self._gallery = gallery

    async def report(
        self,
        store: str,
        faces: Sequence[Face],
        allowed: Allowed,
        *,
        name: str,
        enrolled: Sequence[poi_pb2.Reference] = (),
    ) -> poi_pb2.EnrolmentReport:
        """What there is to say of these faces of the person `name`, who may have references `enrolled` already.

        Raises Unavailable while the gallery is being loaded.
        """
        report = poi_pb2.EnrolmentReport(faces=[face.report for face in faces])
        gallery = await self._gallery(store)
        usable = [(at, face.reference) for at, face in enumerate(faces) if face.reference is not None]
        if usable:
            report.duplicates.extend(await self._duplicates(gallery, usable, name))
            report.disagreements.extend(self._among(usable))
            report.disagreements.extend(self._against(usable, enrolled))
        report.accepted = (
            not any(face.problems for face in report.faces)
            and (allowed.duplicate or not report.duplicates)
            and (allowed.disagreement or not report.disagreements)
        )
        return report

    def _against(
        self, usable: Sequence[tuple[int, poi_pb2.Reference]], enrolled: Sequence[poi_pb2.Reference]
    ) -> list[poi_pb2.Disagreement]:
        found = []
        for index, face in usable:
            for reference in enrolled:
                cosine = _cosine(face, reference)
                if cosine is not None and cosine < self._likeness.disagreement:
                    pair = poi_pb2.Disagreement(
                        index=index, other_index=-1, reference=reference.name, similarity=cosine
                    )
                    found.append(pair)
        return found

    def _among(self, usable: Sequence[tuple[int, poi_pb2.Reference]]) -> list[poi_pb2.Disagreement]:
        found = []
        for at, (index, one) in enumerate(usable):
            for other_index, other in usable[at + 1 :]:
                cosine = _cosine(one, other)
                if cosine is not None and cosine < self._likeness.disagreement:
                    found.append(poi_pb2.Disagreement(index=index, other_index=other_index, similarity=cosine))
        return found

    async def _duplicates(
        self, gallery: Snapshot, usable: Sequence[tuple[int, poi_pb2.Reference]], name: str
    ) -> list[poi_pb2.LikelyDuplicate]:
        probes = [_best(reference) for _, reference in usable]
        vectors = np.stack([vector for vector, _ in probes])
        is_aligned = np.array([aligned for _, aligned in probes], np.bool_)
        alike = await asyncio.to_thread(gallery.alike, vectors, is_aligned, self._likeness.duplicate, time.time())
        best: dict[str, poi_pb2.LikelyDuplicate] = {}
        for (index, _), people in zip(usable, alike, strict=True):
            for poi, similarity in people.items():
                if poi != name and (poi not in best or similarity > best[poi].similarity):
                    best[poi] = poi_pb2.LikelyDuplicate(poi=poi, similarity=similarity, index=index)
        return sorted(best.values(), key=lambda one: -one.similarity)[:_MOST_DUPLICATES]


def refusal(report: poi_pb2.EnrolmentReport, fields: Sequence[str], allowed: Allowed) -> FailedPrecondition:
    """The error of a report that is not accepted: everything that is wrong, with the worst of it as the reason.

    `fields` are the names of the faces in the request. It names enrolled persons by their resource name alone.
    """
    reasons: list[str] = []
    violations: list[tuple[str, str, str]] = []
    metadata: dict[str, str] = {}
    for face in report.faces:
        field = fields[face.index]
        for problem in face.problems:
            violations.append((problem.reason, field, problem.description))
            if not metadata:
                lone = problem.reason in _LONE
                reasons.append(problem.reason if lone else "LOW_QUALITY")
                metadata = {"field": field, "value": f"{problem.value:.4g}", "limit": f"{problem.limit:.4g}"}
                if problem.reason == "MULTIPLE_FACES":
                    metadata["faces"] = f"{problem.value:.0f}"
    if not allowed.disagreement:
        for pair in report.disagreements:
            reasons.append("REFERENCES_DISAGREE")
            other = pair.reference or fields[pair.other_index]
            text = f"looks like somebody else than {other}: cosine {pair.similarity:.2f}"
            violations.append(("REFERENCES_DISAGREE", fields[pair.index], text))
            metadata = metadata or {
                "field": fields[pair.index],
                "other": other,
                "similarity": f"{pair.similarity:.3f}",
            }
    if not allowed.duplicate:
        for duplicate in report.duplicates:
            reasons.append("LIKELY_DUPLICATE")
            text = f"looks like {fields[duplicate.index]}: cosine {duplicate.similarity:.2f}"
            violations.append(("LIKELY_DUPLICATE", duplicate.poi, text))
            metadata = metadata or {"poi": duplicate.poi, "similarity": f"{duplicate.similarity:.3f}"}
    _, subject, description = violations[0]
    more = f"; and {len(violations) - 1} more" if len(violations) > 1 else ""
    return FailedPrecondition(
        f"{subject}: {description}{more}", reason=reasons[0], violations=violations, metadata=metadata
    )


def _best(reference: poi_pb2.Reference) -> tuple[Vector, bool]:
    """What a reference is looked up with, of norm 1, and whether it is aligned."""
    vectors = _vectors(reference)
    kind = next(kind for kind in _KINDS if kind in vectors)
    return vectors[kind], kind == common_pb2.ALIGNMENT_ALIGNED


def _cosine(one: poi_pb2.Reference, other: poi_pb2.Reference) -> float | None:
    """Of what was made in the same way, where both have that; None for references of different models."""
    mine, theirs = _vectors(one), _vectors(other)
    if not mine or not theirs:
        return None
    both = next((kind for kind in _KINDS if kind in mine and kind in theirs), None)
    if both is not None:
        return float(mine[both] @ theirs[both])
    return max(float(vector @ another) for vector in mine.values() for another in theirs.values())


def _vectors(reference: poi_pb2.Reference) -> dict[int, Vector]:
    """By how they were made; those of another model, and damaged ones, are left out."""
    vectors, bad = decode_batch(reference.embeddings, model=FACE_MODEL, dimension=DIMENSION)
    return {
        embedding.alignment or common_pb2.ALIGNMENT_UNALIGNED: normalise(vectors[at])
        for at, embedding in enumerate(reference.embeddings)
        if at not in bad
    }
