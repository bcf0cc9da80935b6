"""The Arrow files of a segment. Each is one record batch of fixed-size columns, so that columns are read in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from history_svc.appearances import Appearance
from history_svc.records import ROW, Frame, FrameLink, Rows, Vectors, id_keys

_ID = 16
_ROW_COLUMNS = ("detection", "appearance", "time_ns", "flags", "alignment", "person_box", "face_box",
                "person_confidence", "face_confidence")  # fmt: skip


def encode_rows(
    rows: Rows, cameras: NDArray[np.int32], numbers: NDArray[np.int64], appearances: NDArray[np.int64]
) -> memoryview:
    """n rows; `cameras` (n,) are places in the manifest's list, `numbers` and `appearances` (n,) as in index.Faces."""
    columns = {name: _column(rows[name]) for name in _ROW_COLUMNS}
    columns |= {"camera": pa.array(cameras), "number": pa.array(numbers), "appearance_number": pa.array(appearances)}
    return _encode(pa.table(columns))


class RowTable:
    """Rows as they lie in a file: columns (n,) that are read when they are asked for."""

    def __init__(self, content: memoryview) -> None:
        batch = _decode(content)
        self._columns = {name: _array(batch.column(name)) for name in _ROW_COLUMNS}
        self.times: NDArray[np.int64] = self._columns["time_ns"]
        self.alignments: NDArray[np.uint8] = self._columns["alignment"]
        self.cameras: NDArray[np.int32] = _array(batch.column("camera"))
        self.numbers: NDArray[np.int64] = _array(batch.column("number"))
        self.appearances: NDArray[np.int64] = _array(batch.column("appearance_number"))

    def ids(self, name: str) -> list[bytes]:
        """The 16-byte ids in the column `detection` or `appearance`."""
        ids: list[bytes] = self._columns[name].tolist()
        return ids

    def id_at(self, name: str, at: int) -> bytes:
        """One of them."""
        one: bytes = self._columns[name][at].tobytes()
        return one

    def rows(self, at: NDArray[np.intp]) -> Rows:
        """(k,) rows of ROW; `track` is 0, as there is no table of tracks."""
        rows: Rows = np.zeros(len(at), ROW)
        for name, column in self._columns.items():
            rows[name] = column[at]
        return rows


def encode_keys(rows: Rows) -> memoryview:
    """Where to find the detections of n rows by their ids."""
    keys = id_keys(rows["detection"])
    places = np.argsort(keys, kind="stable")
    return _encode(pa.table({"key": pa.array(keys[places]), "place": pa.array(places.astype(np.uint32))}))


class KeyTable:
    """Keys as they lie in a file. `rows` is the table they lead to."""

    def __init__(self, content: memoryview, rows: RowTable) -> None:
        batch = _decode(content)
        self._keys: NDArray[np.uint64] = _array(batch.column("key"))
        self._places: NDArray[np.uint32] = _array(batch.column("place"))
        self._rows = rows

    def find(self, detections: Sequence[bytes]) -> dict[bytes, bytes]:
        """The appearance of each detection that is here."""
        wanted = id_keys(np.frombuffer(b"".join(detections), f"V{_ID}"))
        starts = np.searchsorted(self._keys, wanted, "left")
        ends = np.searchsorted(self._keys, wanted, "right")
        found: dict[bytes, bytes] = {}
        for at in np.flatnonzero(ends > starts).tolist():
            for place in self._places[starts[at] : ends[at]].tolist():
                if self._rows.id_at("detection", place) == detections[at]:
                    found[detections[at]] = self._rows.id_at("appearance", place)
        return found


def encode_appearances(appearances: Sequence[Appearance], dimension: int) -> memoryview:
    """Whole appearances but for their frames, which `encode_frames` has."""
    sums = [None if one.face_sum is None else one.face_sum.astype("<f4").tobytes() for one in appearances]
    return _encode(
        pa.table(
            {
                "id": pa.array([one.id for one in appearances], pa.binary(_ID)),
                "camera": pa.array([one.camera for one in appearances], pa.utf8()),
                "object_id": pa.array([one.object_id for one in appearances], pa.utf8()),
                "start_ns": pa.array([one.start_ns for one in appearances], pa.int64()),
                "end_ns": pa.array([one.end_ns for one in appearances], pa.int64()),
                "entry": pa.array([one.entry for one in appearances], pa.binary(ROW.itemsize)),
                "exit": pa.array([one.exit for one in appearances], pa.binary(ROW.itemsize)),
                "best": pa.array([one.best for one in appearances], pa.binary()),
                "best_score": pa.array([one.best_score for one in appearances], pa.float64()),
                "count": pa.array([one.count for one in appearances], pa.int64()),
                "face_count": pa.array([one.face_count for one in appearances], pa.int64()),
                "face_square": pa.array([one.face_square for one in appearances], pa.float64()),
                "face_sum": pa.array(sums, pa.binary(dimension * 4)),
            }
        )
    )


def decode_appearances(content: memoryview) -> Iterator[Appearance]:
    """The inverse of `encode_appearances`; face sums stay in the file until they are used."""
    batch = _decode(content)
    sums = batch.column("face_sum")
    width = sums.type.byte_width // 4
    vectors: Vectors = np.zeros((0, width), np.float32)
    if len(sums):
        vectors = np.frombuffer(sums.buffers()[1], "<f4", count=width * len(sums)).reshape(-1, width)
    has_sum = sums.is_valid().to_pylist()
    names = ("id", "camera", "object_id", "start_ns", "end_ns", "entry", "exit", "best", "best_score", "count",
             "face_count", "face_square")  # fmt: skip
    columns = [batch.column(name).to_pylist() for name in names]
    for at, (*fields, square) in enumerate(zip(*columns, strict=True)):
        appearance = Appearance(*fields)
        appearance.face_sum, appearance.face_square = vectors[at] if has_sum[at] else None, square
        yield appearance


def encode_frames(links: Sequence[FrameLink]) -> memoryview:
    """Frames and what they show. A frame may come several times, with more appearances."""
    frames = [link.frame for link in links]
    return _encode(
        pa.table(
            {
                "id": pa.array([one.id for one in frames], pa.utf8()),
                "camera": pa.array([one.camera for one in frames], pa.utf8()),
                "time_ns": pa.array([one.time_ns for one in frames], pa.int64()),
                "kind": pa.array([one.kind for one in frames], pa.int32()),
                "size": pa.array([one.size for one in frames], pa.int64()),
                "appearances": pa.array([list(link.appearances) for link in links], pa.list_(pa.binary(_ID))),
            }
        )
    )


def decode_frames(content: memoryview) -> Iterator[FrameLink]:
    """The inverse of `encode_frames`."""
    batch = _decode(content)
    columns = [batch.column(name).to_pylist() for name in ("id", "camera", "time_ns", "kind", "size", "appearances")]
    for *fields, appearances in zip(*columns, strict=True):
        yield FrameLink(Frame(*fields), tuple(appearances))


def _encode(table: Any) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _decode(content: memoryview) -> Any:
    reader = pa.ipc.open_file(pa.py_buffer(content))
    if reader.num_record_batches:
        return reader.get_batch(0)
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in reader.schema], schema=reader.schema)


def _column(values: NDArray[Any]) -> Any:
    if values.dtype.kind == "V":
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_ID), len(values), [None, pa.py_buffer(values.tobytes())])
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return pa.array(values)


def _array(column: Any) -> NDArray[Any]:
    """A column where it lies."""
    if pa.types.is_fixed_size_binary(column.type):
        ids: NDArray[Any] = np.frombuffer(column.buffers()[1], f"V{_ID}", count=len(column))
        return ids
    if pa.types.is_fixed_size_list(column.type):
        boxes: NDArray[Any] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return boxes
    values: NDArray[Any] = column.to_numpy()
    return values
