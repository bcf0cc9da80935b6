"""What the registry keeps of a person, for the eraser: record, references, pictures, and notes in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from poi.v1 import erasure_pb2, poi_pb2

from match_svc.registry import LOG, Registry, images_key
from match_svc.replicas import Replicas
from mesh import names
from mesh.errors import NotFound
from mesh.redis import Redis
from mesh.traces import found

_PAGE: Final = 1000
_IN_MEMORY: Final = erasure_pb2.Remainder(
    kind="faces of tracks that were seen last, in memory",
    reason="never stored; forgotten some minutes after the person is out of sight",
)


class RegistryTraces:
    """`mesh.traces.Keeper` of the match service."""

    def __init__(self, redis: Redis, registry: Registry, replicas: Replicas, confirm_seconds: float) -> None:
        """`confirm_seconds`: longest wait for all replicas to have a removal."""
        self._redis, self._registry, self._replicas = redis, registry, replicas
        self._confirm_seconds = confirm_seconds

    async def find(self, store: str, request: erasure_pb2.FindTracesRequest) -> erasure_pb2.FindTracesResponse:
        """See Keeper."""
        poi_id = _poi_of(store, request.subject)
        if not poi_id:
            return found({})
        poi = await self._person(store, poi_id)
        known = [reference.name for reference in poi.references] if poi is not None else []
        notes = len([key async for key in self._notes(store, poi_id)]) + len(await self._log_entries(store, poi_id))
        counts = {
            "person": int(poi is not None),
            "references": len(known),
            "embeddings": sum(len(one.embeddings) for one in poi.references) if poi is not None else 0,
            "reference pictures": len([field async for field in self._pictures(store, poi_id)]),
            "notes of requests, tracks and changes": notes,
        }
        return found(
            counts,
            names_of=[request.subject.poi, *known] if poi is not None else (),
            remainders=[_IN_MEMORY] if poi is not None else (),
            subject=erasure_pb2.TraceSubject(references=known),
        )

    async def erase(self, store: str, subject: erasure_pb2.TraceSubject, erasure: str) -> list[str]:
        """See Keeper. Notes go last: replicas learn of the removal from them."""
        poi_id = _poi_of(store, subject)
        if not poi_id:
            return []
        revision = await self._remove(store, poi_id)
        outcome = await self._replicas.confirmed(revision, self._confirm_seconds)
        if outcome.missing:
            return ["replicas have yet to hear of the removal from the gallery"]
        if fields := [field async for field in self._pictures(store, poi_id)]:
            await _awaited(self._redis.hdel(images_key(store), *fields))
        if entries := await self._log_entries(store, poi_id):
            # Replicas have read them; one that has not finds a gap and loads the registry anew.
            await self._redis.xdel(LOG, *entries)
        if keys := [key async for key in self._notes(store, poi_id)]:
            await self._redis.delete(*keys)
        return []

    async def _remove(self, store: str, poi_id: str) -> int:
        try:
            return await self._registry.delete(store, poi_id)
        except NotFound:
            return await self._registry.revision()

    async def _person(self, store: str, poi_id: str) -> poi_pb2.Poi | None:
        try:
            return await self._registry.get(store, poi_id)
        except NotFound:
            return None

    async def _pictures(self, store: str, poi_id: str) -> AsyncIterator[bytes]:
        """Fields of the hash of pictures."""
        async for field, _ in self._redis.hscan_iter(images_key(store), match=f"{poi_id}/*", count=_PAGE):
            yield field

    async def _log_entries(self, store: str, poi_id: str) -> list[bytes]:
        """Ids of the entries that name the person."""
        entries: list[bytes] = []
        after = "-"
        while True:
            page: Any = await self._redis.xrange(LOG, min=after, count=_PAGE)
            entries += [
                entry for entry, fields in page if fields[b"p"].decode() == poi_id and fields[b"s"].decode() == store
            ]
            if len(page) < _PAGE:
                return entries
            after = f"({page[-1][0].decode('ascii')}"

    async def _notes(self, store: str, poi_id: str) -> AsyncIterator[bytes]:
        """Keys that say what a request has done to the person, or whom a track was recognised as."""
        own = poi_id.encode()
        for pattern, first in ((f"poi:{{gallery}}:request:{store}:*", 1), (f"poi:{{{store}}}:decision:*", 2)):
            async for key in self._redis.scan_iter(match=pattern, count=_PAGE):
                value: Any = await self._redis.get(key)
                if value is not None and own in value.split(b" ")[first:]:
                    yield key


def _poi_of(store: str, subject: erasure_pb2.TraceSubject) -> str:
    """The person's id; "" where they are none of this store's persons of interest."""
    if not subject.poi:
        return ""
    of, poi_id = names.parse_poi(subject.poi, "subject.poi")
    return poi_id if of == store else ""


async def _awaited(answer: Any) -> Any:
    """Commands of the client are typed as answering at once or later."""
    return await answer
