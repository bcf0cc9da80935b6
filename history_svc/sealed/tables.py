"""The rows of a segment, and where to find them by detection. Columns of fixed size, so that they are read in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from history_svc.records import ROW, Rows, id_keys
from history_svc.sealed import arrow

_ROW_COLUMNS = ("detection", "appearance", "time_ns", "flags", "alignment", "person_box", "face_box",
                "person_confidence", "face_confidence")  # fmt: skip


def encode_rows(
    rows: Rows, cameras: NDArray[np.int32], numbers: NDArray[np.int64], appearances: NDArray[np.int64]
) -> memoryview:
    """n rows; `cameras` (n,) are places in the manifest's list, `numbers` and `appearances` (n,) as in index.Faces."""
    columns: dict[str, NDArray[Any]] = {name: rows[name] for name in _ROW_COLUMNS}
    columns |= {"camera": cameras, "number": numbers, "appearance_number": appearances}
    return arrow.encode({name: arrow.column(values) for name, values in columns.items()})


class RowTable:
    """Rows as they lie in a file: columns (n,) that are read when they are asked for."""

    def __init__(self, content: memoryview) -> None:
        batch = arrow.decode(content)
        self._columns = {name: arrow.array(batch.column(name)) for name in _ROW_COLUMNS}
        self.times: NDArray[np.int64] = self._columns["time_ns"]
        self.alignments: NDArray[np.uint8] = self._columns["alignment"]
        self.cameras: NDArray[np.int32] = arrow.array(batch.column("camera"))
        self.numbers: NDArray[np.int64] = arrow.array(batch.column("number"))
        self.appearances: NDArray[np.int64] = arrow.array(batch.column("appearance_number"))

    def __len__(self) -> int:
        return len(self.times)

    def ids(self, name: str) -> list[bytes]:
        """The 16-byte ids in the column `detection` or `appearance`."""
        ids: list[bytes] = self._columns[name].tolist()
        return ids

    def id_at(self, name: str, at: int) -> bytes:
        """One of them."""
        one: bytes = self._columns[name][at].tobytes()
        return one

    def rows(self, at: NDArray[np.intp] | slice) -> Rows:
        """(k,) rows of ROW; `track` is 0, as there is no table of tracks."""
        rows: Rows = np.zeros(len(self.times[at]), ROW)
        for name, column in self._columns.items():
            rows[name] = column[at]
        return rows


def encode_keys(rows: Rows) -> memoryview:
    """Where to find the detections of n rows by their ids."""
    keys = id_keys(rows["detection"])
    places = np.argsort(keys, kind="stable")
    columns: dict[str, NDArray[Any]] = {"key": keys[places], "place": places.astype(np.uint32)}
    return arrow.encode({name: arrow.column(values) for name, values in columns.items()})


class KeyTable:
    """Keys as they lie in a file. `rows` is the table they lead to."""

    def __init__(self, content: memoryview, rows: RowTable) -> None:
        batch = arrow.decode(content)
        self._keys: NDArray[np.uint64] = arrow.array(batch.column("key"))
        self._places: NDArray[np.uint32] = arrow.array(batch.column("place"))
        self._rows = rows

    def find(self, detections: Sequence[bytes]) -> dict[bytes, bytes]:
        """The appearance of each detection that is here."""
        wanted = id_keys(np.frombuffer(b"".join(detections), f"V{arrow.ID_BYTES}"))
        starts = np.searchsorted(self._keys, wanted, "left")
        ends = np.searchsorted(self._keys, wanted, "right")
        found: dict[bytes, bytes] = {}
        for at in np.flatnonzero(ends > starts).tolist():
            for place in self._places[starts[at] : ends[at]].tolist():
                if self._rows.id_at("detection", place) == detections[at]:
                    found[detections[at]] = self._rows.id_at("appearance", place)
        return found
