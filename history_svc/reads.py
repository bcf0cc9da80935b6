"""Every read of appearances and frames: what the book has, and what sealed segments have."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from history_svc.appearances import Appearance
from history_svc.book import Book
from history_svc.erasure import Erasures
from history_svc.records import FrameLink
from history_svc.sealed.index import SegmentedIndex


class Reads:
    """See the module. Of the loop's thread, which never waits for the disk."""

    def __init__(self, book: Book, index: SegmentedIndex, erasures: Erasures) -> None:
        """What is being erased is not there any more, although segments may have it."""
        self._book, self._index, self._erasures = book, index, erasures

    async def appearance(self, appearance_id: bytes) -> Appearance | None:
        """The appearance with this id."""
        found = await self.appearances([appearance_id])
        return found.get(appearance_id)

    async def appearances(self, ids: Iterable[bytes]) -> dict[bytes, Appearance]:
        """Those of the appearances with these ids that there are."""
        wanted = set(ids)
        found = {one: kept for one in wanted if (kept := self._book.get(one)) is not None}
        missing = wanted - found.keys() - self._erasures.erased.appearances
        if missing:
            found |= await asyncio.to_thread(self._index.shelf.with_ids, missing)
        return found

    async def numbered(self, numbers: Iterable[int]) -> dict[int, Appearance]:
        """Those of the appearances that the index knows by these numbers that there are."""
        wanted = set(numbers)
        found = {one: kept for one in wanted if (kept := self._book.numbered(one)) is not None}
        missing = wanted - found.keys()
        if missing:
            shelved = await asyncio.to_thread(self._index.shelf.with_numbers, missing)
            found |= {key: one for key, one in shelved.items() if one.id not in self._erasures.erased.appearances}
        return found

    async def newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        limit: int,
        cameras: Collection[str] | None = None,
    ) -> list[Appearance]:
        """As Book.newest_first, of all appearances, `limit` at most."""
        in_memory = self._book.newest_first(start_ns, end_ns, after, cameras)
        shelf, erased = self._index.shelf, self._erasures.erased.appearances
        # The book's state of an appearance is newer, whether it is among those asked for or not.
        leave_out = self._book.numbers()
        shelved = await asyncio.to_thread(
            shelf.newest_first, start_ns, end_ns, after, cameras, limit + len(erased), leave_out
        )
        found = in_memory[:limit] + [one for one in shelved if one.id not in erased]
        found.sort(key=lambda one: (one.start_ns, one.id), reverse=True)
        return found[:limit]

    async def frame(self, frame_id: str) -> FrameLink | None:
        """The frame with this id, and what it shows."""
        if frame_id in self._erasures.erased.frames:
            return None
        return self._book.frame(frame_id) or await asyncio.to_thread(self._index.shelf.frame, frame_id)

    async def frames_of(self, ids: Collection[str]) -> set[str]:
        """Those of some frame ids that there are."""
        found = {one for one in ids if self._book.frame(one) is not None}
        shelf = self._index.shelf
        return found | set(await asyncio.to_thread(lambda: [one for one in ids if shelf.frame(one) is not None]))
