"""Reads of appearances and frames from Qdrant: `reads.HistoryReads`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from functools import partial

from qdrant_client import models

from history_svc.appearances import Appearance
from history_svc.qdrant.database import Database, Payload, between, equals, one_of
from history_svc.qdrant.states import (
    appearance_point_id,
    frame_point_id,
    read_appearance,
    read_frame,
)
from history_svc.records import FrameLink, appearance_number

_STATE = ["kind", "state"]


class QdrantReads:
    """See the module. The methods with `await` are of the loop's thread, the others block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def appearance(self, appearance_id: bytes) -> Appearance | None:
        """The appearance with this id."""
        return (await self.appearances([appearance_id])).get(appearance_id)

    async def appearances(self, ids: Iterable[bytes]) -> dict[bytes, Appearance]:
        """Those of the appearances with these ids that there are."""
        return await asyncio.to_thread(self.with_ids, set(ids))

    async def numbered(self, numbers: Iterable[int]) -> dict[int, Appearance]:
        """Those of the appearances with these numbers that there are."""
        return await asyncio.to_thread(self.with_numbers, set(numbers))

    async def newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        limit: int,
        cameras: Collection[str] | None = None,
    ) -> list[Appearance]:
        """As HistoryReads says."""
        return await asyncio.to_thread(self._newest_first, start_ns, end_ns, after, limit, cameras)

    async def frame(self, frame_id: str) -> FrameLink | None:
        """The frame with this id, and what it shows."""
        return await asyncio.to_thread(self.linked, frame_id)

    def with_ids(self, ids: Collection[bytes]) -> dict[bytes, Appearance]:
        """As `appearances`."""
        found = self.with_numbers({appearance_number(one) for one in ids})
        return {one.id: one for one in found.values() if one.id in ids}

    def with_numbers(self, numbers: Collection[int]) -> dict[int, Appearance]:
        """As `numbered`."""
        if not numbers:
            return {}
        ids = [appearance_point_id(self._database.store, one) for one in numbers]
        found = self._database.get(self._database.records, ids, _STATE)
        appearances = [read_appearance(one) for one in found.values() if one["kind"] == "appearance"]
        return {one.number: one for one in appearances}

    def showing(self, frames: Collection[str]) -> list[Appearance]:
        """The appearances with any of these frames."""
        wanted = self._database.where(equals("kind", "appearance"), one_of("frames", frames))
        points = self._database.scroll(self._database.records, wanted, _STATE)
        return [read_appearance(point.payload or {}) for point in points]

    def _newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        limit: int,
        cameras: Collection[str] | None,
    ) -> list[Appearance]:
        must: list[models.Condition] = [equals("kind", "appearance")]
        if start_ns is not None:
            must.append(between("end_us", start_ns // 1000, None))
        if cameras is not None:
            must.append(one_of("camera", sorted(cameras)))
        before_us = None if end_ns is None else -(-end_ns // 1000)
        if after is not None:
            before_us = min(after[0] // 1000 + 1, *([] if before_us is None else [before_us]))
        wanted = partial(_inside, start_ns=start_ns, end_ns=end_ns, after=after)
        found: dict[bytes, Appearance] = {}
        while len(found) < limit:
            newest = self._database.where(*must, between("start_us", None, before_us))
            points = self._database.first(self._database.records, newest, "start_us", limit)
            if len(points) == limit:
                # The page may end among several that began in the same microsecond: all of those, in any order.
                before_us = min(_payload(point)["start_us"] for point in points)
                same = self._database.where(*must, equals("start_us", before_us))
                points += self._database.scroll(self._database.records, same)
            read = [read_appearance(_payload(point)) for point in points]
            found |= {one.id: one for one in read if wanted(one)}
            if len(points) < limit:
                break
        ordered = sorted(found.values(), key=lambda one: (one.start_ns, one.id), reverse=True)
        return ordered[:limit]

    def linked(self, frame_id: str) -> FrameLink | None:
        """As `frame`."""
        key = frame_point_id(self._database.store, frame_id)
        found = self._database.get(self._database.records, [key], _STATE)
        if key not in found:
            return None
        shown = tuple(one.id for one in self.showing([frame_id]))
        return FrameLink(read_frame(found[key]), shown)


def _inside(one: Appearance, start_ns: int | None, end_ns: int | None, after: tuple[int, bytes] | None) -> bool:
    return (
        (start_ns is None or one.end_ns >= start_ns)
        and (end_ns is None or one.start_ns < end_ns)
        and (after is None or (one.start_ns, one.id) < after)
    )


def _payload(point: models.Record) -> Payload:
    payload: Payload = point.payload or {}
    return payload
