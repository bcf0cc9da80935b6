"""Which segments are to become one: small ones side by side, so that a search has few to look into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from history_svc.sealed.manifest import Manifest

_ROWS_PER_FACE: Final = 8
_FEW: Final = 8


def mergeable(segments: Sequence[Manifest], faces: int, span_ns: int) -> Sequence[Manifest]:
    """The oldest neighbours that fill a segment of so many faces together; none when there are none.

    Those whose times span more than `span_ns` stay apart, as a segment is dropped when all of it is too old; of those
    that fill none only `_FEW` and more are merged.
    """
    run: list[Manifest] = []
    for one in segments:
        if _weight(one) * 2 > faces:
            if len(run) >= _FEW:
                return run
            run = []
            continue
        if run and one.newest_ns - run[0].oldest_ns > span_ns:
            if len(run) >= _FEW:
                return run
            run = []
        run.append(one)
        if sum(map(_weight, run)) >= faces:
            return run
    return ()


def _weight(one: Manifest) -> int:
    return max(one.faces, one.rows // _ROWS_PER_FACE)
