"""What sealed segments know of appearances, frames and detections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from history_svc.appearances import Appearance
from history_svc.records import FrameLink, Track, appearance_number
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.reading import Unreadable, reading

_FOREVER = 1 << 62
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _of_the_rest(read: Callable[Concatenate[Shelf, _P], _T]) -> Callable[Concatenate[Shelf, _P], _T]:
    """Reads again without the segments that turn out to be damaged."""

    @wraps(read)
    def repeat(shelf: Shelf, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            try:
                return read(shelf, *args, **kwargs)
            except Unreadable as failed:
                shelf = shelf.renew(failed)

    return repeat


class Shelf:
    """The segments at one moment. An appearance may be in several: the newest state is the one that counts.

    Never changes; any thread. Blocks: what is asked for is read from disk.
    """

    def __init__(self, segments: Sequence[SealedFaces], renew: Callable[[Unreadable], Shelf]) -> None:
        """`segments`, oldest first. `renew` gives another shelf without those that are damaged, or raises."""
        self._newest_first, self.renew = segments[::-1], renew

    @_of_the_rest
    def with_numbers(self, numbers: Collection[int], *, sums: bool = False) -> dict[int, Appearance]:
        """The appearances with these numbers, as far as they are here; with the sums of their faces if asked for."""
        found: dict[int, Appearance] = {}
        for segment, _, places in self._places(np.array(list(numbers), np.int64)):
            with reading(segment):
                found |= {one.number: one for one in segment.appearances.read(places, sums=sums)}
        return found

    def with_ids(self, ids: Iterable[bytes], *, sums: bool = False) -> dict[bytes, Appearance]:
        """The appearances with these ids, as far as they are here."""
        wanted = set(ids)
        found = self.with_numbers([appearance_number(one) for one in wanted], sums=sums)
        return {one.id: one for one in found.values() if one.id in wanted}

    @_of_the_rest
    def near(self, sights: Collection[tuple[Track, int]], gap_ns: int) -> dict[bytes, Appearance]:
        """The appearances of tracks that are within the gap of a time in ns, with the sums of their faces."""
        spans: dict[Track, tuple[int, int]] = {}
        for track, time_ns in sights:
            first, last = spans.get(track, (time_ns, time_ns))
            spans[track] = min(first, time_ns), max(last, time_ns)
        ids: set[bytes] = set()
        for segment in self._newest_first:
            with reading(segment):
                for track, (first, last) in spans.items():
                    if segment.manifest.latest_ns >= first - gap_ns:
                        places = segment.appearances.of_track(track, first - gap_ns, last + gap_ns)
                        ids.update(segment.appearances.ids(places) if len(places) else ())
        found = self.with_ids(ids, sums=True)
        return {key: one for key, one in found.items() if (one.camera, one.object_id) in spans}

    @_of_the_rest
    def newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        cameras: Collection[str] | None,
        limit: int,
        leave_out: Collection[int],
    ) -> list[Appearance]:
        """As book.Book.newest_first; without those whose numbers are in `leave_out`."""
        begin = -_FOREVER if start_ns is None else start_ns
        end = _FOREVER if end_ns is None else end_ns
        parts = []
        for at, segment in enumerate(self._newest_first):
            with reading(segment):
                places = segment.appearances.overlapping(begin, end, cameras)
                starts = segment.appearances.starts[places]
            if after is not None:
                places, starts = places[starts <= after[0]], starts[starts <= after[0]]
            if len(places):
                parts.append((np.full(len(places), at), places, starts))
        if not parts:
            return []
        of, places, starts = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(-starts, kind="stable")
        found: list[Appearance] = []
        taken = 0
        while taken < len(order) and len(found) < limit:
            # Whole runs of one start, so that ids decide the order within them.
            last = starts[order[min(taken + limit, len(order)) - 1]]
            until = int(np.searchsorted(-starts[order], -last, "right"))
            batch = order[taken:until]
            found += self._current(of[batch], places[batch], after, leave_out)
            taken = until
        return found[:limit]

    @_of_the_rest
    def frame(self, frame_id: str) -> FrameLink | None:
        """The frame with this id and what it shows."""
        for segment in self._newest_first:
            with reading(segment):
                link = segment.frames.find(frame_id)
            if link is not None:
                return link
        return None

    @_of_the_rest
    def detections(self, detections: Sequence[bytes], times: NDArray[np.int64]) -> dict[bytes, bytes]:
        """The appearance of each detection that is here; `times` (n,) are theirs, in ns since 1970."""
        found: dict[bytes, bytes] = {}
        for segment in self._newest_first:
            with reading(segment):
                found |= segment.find(detections, times)
        return found

    @_of_the_rest
    def detections_of(self, numbers: Collection[int]) -> dict[bytes, bytes]:
        """The detections of appearances with these numbers, and their appearances."""
        wanted = np.array(list(numbers), np.int64)
        found: dict[bytes, bytes] = {}
        for segment in self._newest_first:
            with reading(segment):
                for at in np.flatnonzero(np.isin(segment.table.appearances, wanted)).tolist():
                    found[segment.table.id_at("detection", at)] = segment.table.id_at("appearance", at)
        return found

    @_of_the_rest
    def holding(self, numbers: Collection[int], frames: Collection[str]) -> list[SealedFaces]:
        """The segments with anything of these appearances, of these frames, or of what else the frames show."""
        wanted = set(numbers)
        for frame_id in frames:
            for segment in self._newest_first:
                with reading(segment):
                    link = segment.frames.find(frame_id)
                wanted.update(appearance_number(one) for one in (link.appearances if link is not None else ()))
        found = np.array(list(wanted), np.int64)
        holding = []
        for segment in self._newest_first[::-1]:
            with reading(segment):
                if (
                    (segment.appearances.with_numbers(found) >= 0).any()
                    or np.isin(segment.table.appearances, found).any()
                    or any(segment.frames.find(one) is not None for one in frames)
                ):
                    holding.append(segment)
        return holding

    def _current(
        self,
        of: NDArray[np.int64],
        places: NDArray[np.intp],
        after: tuple[int, bytes] | None,
        leave_out: Collection[int],
    ) -> list[Appearance]:
        """Of states at places in segments those that are the newest of their appearance; by (start, id) falling."""
        states: list[tuple[int, Appearance]] = []
        for at in np.unique(of).tolist():
            segment = self._newest_first[at]
            with reading(segment):
                states += [(at, one) for one in segment.appearances.read(places[of == at])]
        newest: dict[int, int] = {}
        for _, at, found in self._places(np.array([one.number for _, one in states], np.int64), numbers_only=True):
            newest |= dict.fromkeys(found.tolist(), at)
        kept = [
            one
            for at, one in states
            if newest[one.number] == at
            and one.number not in leave_out
            and (after is None or (one.start_ns, one.id) < after)
        ]
        kept.sort(key=lambda one: (one.start_ns, one.id), reverse=True)
        return kept

    def _places(
        self, numbers: NDArray[np.int64], *, numbers_only: bool = False
    ) -> Iterable[tuple[SealedFaces, int, NDArray[np.int64]]]:
        """Where the newest states of these appearances are: places (or the numbers found) in the at-th segment."""
        numbers = np.unique(numbers)
        for at, segment in enumerate(self._newest_first):
            if not len(numbers):
                return
            with reading(segment, in_memory=True):
                places = segment.appearances.with_numbers(numbers)
            here = places >= 0
            if here.any():
                yield segment, at, numbers[here] if numbers_only else places[here]
                numbers = numbers[~here]
