"""The frames of a segment and what they show, found by id."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from history_svc.records import Frame, FrameLink, id_keys
from history_svc.sealed import arrow

_COLUMNS = ("id", "camera", "time_ns", "kind", "size", "appearances")


def encode(links: Iterable[FrameLink]) -> memoryview:
    """Frames and what they show; links of one frame become one."""
    united = unite(links)
    keys = _keys([link.frame.id for link in united])
    order = np.argsort(keys, kind="stable")
    links = [united[at] for at in order.tolist()]
    frames = [link.frame for link in links]
    return arrow.encode(
        {
            "key": pa.array(keys[order]),
            "id": pa.array([one.id for one in frames], pa.utf8()),
            "camera": pa.array([one.camera for one in frames], pa.utf8()),
            "time_ns": pa.array([one.time_ns for one in frames], pa.int64()),
            "kind": pa.array([one.kind for one in frames], pa.int32()),
            "size": pa.array([one.size for one in frames], pa.int64()),
            "appearances": pa.array([list(link.appearances) for link in links], pa.list_(pa.binary(arrow.ID_BYTES))),
        }
    )


def unite(links: Iterable[FrameLink]) -> list[FrameLink]:
    """One link for each frame."""
    frames: dict[str, Frame] = {}
    shown: dict[str, dict[bytes, None]] = {}
    for link in links:
        frames.setdefault(link.frame.id, link.frame)
        shown.setdefault(link.frame.id, {}).update(dict.fromkeys(link.appearances))
    return [FrameLink(frame, tuple(shown[frame_id])) for frame_id, frame in frames.items()]


class FrameTable:
    """See the module. Any thread."""

    def __init__(self, content: memoryview) -> None:
        """Raises ValueError."""
        self._batch = arrow.decode(content, anchor=True)
        self._keys: NDArray[np.uint64] = arrow.array(self._batch.column("key"))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, frame_id: str) -> FrameLink | None:
        """The frame with this id; None for what is no id (32 hex digits) as well."""
        if len(frame_id) != 2 * arrow.ID_BYTES:
            return None
        try:
            key = _keys([frame_id])[0]
        except ValueError:
            return None
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        found = self._links(self._batch.slice(first, last - first))
        return next((link for link in found if link.frame.id == frame_id), None)

    def links(self) -> list[FrameLink]:
        """All of them."""
        return self._links(self._batch)

    def _links(self, batch: pa.RecordBatch) -> list[FrameLink]:
        columns = [batch.column(name).to_pylist() for name in _COLUMNS]
        return [FrameLink(Frame(*fields), tuple(shown)) for *fields, shown in zip(*columns, strict=True)]


def _keys(frame_ids: list[str]) -> NDArray[np.uint64]:
    ids = b"".join(bytes.fromhex(one) for one in frame_ids)
    return id_keys(np.frombuffer(ids, f"V{arrow.ID_BYTES}"))
