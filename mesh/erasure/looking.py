"""Finds what there is of a person: what one keeper knows leads to what the others have."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from poi.v1 import erasure_pb2

from mesh import names
from mesh.erasure.keepers import Asked
from mesh.errors import MeshError, NotFound, Unavailable
from mesh.traces import added_to

_OTHERS: Final = (
    erasure_pb2.Remainder(
        keeper="audit",
        kind="audit records",
        reason="who read or changed what of the person: kept for the law, with resource names and no face or name",
    ),
    erasure_pb2.Remainder(
        keeper="audit", kind="this receipt", reason="the proof of the erasure; names the person of interest by id"
    ),
    erasure_pb2.Remainder(
        keeper="logs",
        kind="lines of servers and of the gateway",
        reason="names of resources only, as in the audit records; gone when logs are rotated",
    ),
    erasure_pb2.Remainder(
        keeper="backups",
        kind="copies of disks and of Redis that were made before",
        reason="out of the mesh's reach: destroy them, or let them expire",
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """All that there is."""

    subject: erasure_pb2.TraceSubject
    parts: Mapping[str, erasure_pb2.FindTracesResponse]
    """By keeper."""

    @property
    def traces(self) -> list[erasure_pb2.TraceCount]:
        """What there is to erase."""
        return [
            erasure_pb2.TraceCount(keeper=keeper, kind=one.kind, count=one.count)
            for keeper, part in self.parts.items()
            for one in part.traces
        ]

    @property
    def remainders(self) -> list[erasure_pb2.Remainder]:
        """What stays."""
        found = []
        for keeper, part in self.parts.items():
            for one in part.remainders:
                stays = erasure_pb2.Remainder(keeper=keeper)
                stays.MergeFrom(one)
                found.append(stays)
        return [*found, *_OTHERS]

    def token(self, parent: str, person: erasure_pb2.ErasedPerson) -> str:
        """Of this plan for this person: another one where there is more of them, or less."""
        listed = sorted(f"{keeper} {name}" for keeper, part in self.parts.items() for name in part.names)
        return person_token(parent, person) + hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


class Looking:
    """Asks the keepers."""

    def __init__(self, keepers: Mapping[str, Asked]) -> None:
        self._keepers = keepers

    async def person(self, parent: str, person: erasure_pb2.ErasedPerson) -> Finding:
        """Everything of a person. Raises NotFound, Unavailable (TRACES_UNKNOWN), and what history says of photos."""
        _check_store(parent, person)
        subject = erasure_pb2.TraceSubject(poi=person.poi, appearances=person.appearances)
        # Alerts lead to references and appearances, the gallery to references, these to what history has of their like.
        await self._learn("alert", parent, subject)
        enrolled = await self._learn("match", parent, subject)
        search = erasure_pb2.FindTracesRequest(by_references=bool(enrolled.names), photos=person.photos)
        if person.HasField("min_similarity"):
            search.min_similarity = person.min_similarity
        history = await self._learn("history", parent, subject, search)
        for name in person.appearances:
            if name not in history.subject.appearances:
                raise NotFound(name)
        await self._learn("alert", parent, subject)
        found = await self.names(parent, subject)
        if person.poi and not found.traces:
            raise NotFound(person.poi)
        return found

    async def names(self, parent: str, subject: erasure_pb2.TraceSubject) -> Finding:
        """What everybody has of a person who is known by names. Raises Unavailable."""
        answers = await asyncio.gather(*(self._ask(name, parent, subject) for name in self._keepers))
        return Finding(subject, dict(zip(self._keepers, answers, strict=True)))

    async def _learn(
        self,
        keeper: str,
        parent: str,
        subject: erasure_pb2.TraceSubject,
        search: erasure_pb2.FindTracesRequest | None = None,
    ) -> erasure_pb2.FindTracesResponse:
        answer = await self._ask(keeper, parent, subject, search)
        added_to(subject, answer.subject)
        return answer

    async def _ask(
        self,
        keeper: str,
        parent: str,
        subject: erasure_pb2.TraceSubject,
        search: erasure_pb2.FindTracesRequest | None = None,
    ) -> erasure_pb2.FindTracesResponse:
        request = erasure_pb2.FindTracesRequest(parent=parent, subject=subject)
        if search is not None:
            request.MergeFrom(search)
        try:
            return await self._keepers[keeper].find(request)
        except MeshError as error:
            if not error.retryable:
                raise
            raise Unavailable(
                f"{keeper} does not say what it keeps of the person: {error.code.name}",
                reason="TRACES_UNKNOWN",
                retry_after=5.0,
                metadata={"keeper": keeper},
            ) from None


def person_token(parent: str, person: erasure_pb2.ErasedPerson) -> str:
    """How a plan of this person begins."""
    content = parent.encode() + b"\0" + person.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:16]


def _check_store(parent: str, person: erasure_pb2.ErasedPerson) -> None:
    (store,) = names.parse_store(parent)
    if person.poi and names.parse_poi(person.poi, "person.poi")[0] != store:
        raise NotFound(person.poi)
    for index, name in enumerate(person.appearances):
        if names.parse_appearance(name, f"person.appearances[{index}]")[0] != store:
            raise NotFound(name)
