"""Arrow files of one record batch, whose fixed-size columns are read in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ID_BYTES = 16


def encode(columns: dict[str, Any]) -> memoryview:
    """A file of these columns, of equal length."""
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


def decode(content: memoryview, *, anchor: bool = False) -> Any:
    """The record batch of a file, where it lies; with `anchored` columns where asked for. Raises ValueError."""
    reader = pa.ipc.open_file(pa.py_buffer(content))
    if reader.num_record_batches:
        batch = reader.get_batch(0)
        batch.validate()  # numpy would read beyond the end of a column that is too short
        if anchor:
            columns = [anchored(one) for one in batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
        return batch
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in reader.schema], schema=reader.schema)


def anchored(column: Any) -> Any:
    """The same column with what leads into its values in memory.

    Offsets that are damaged in a file while it is mapped would lead out of it, and end this process.
    """
    kind = column.type
    if not len(column):
        return column
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([anchored(part) for part in column.flatten()], fields=list(kind))
    if pa.types.is_list(kind):
        offsets = pa.array(column.offsets.to_numpy().copy())
        return pa.ListArray.from_arrays(offsets, anchored(column.values), type=kind)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        _, offsets, values = column.buffers()
        return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(offsets.to_pybytes()), values])
    return column


def column(values: NDArray[Any]) -> Any:
    """A column of numbers (n,), of numbers (n, k) or of ids (n,) V16."""
    if values.dtype.kind == "V":
        ids = pa.py_buffer(values.tobytes())
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(ID_BYTES), len(values), [None, ids])
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return pa.array(values)


def array(column: Any) -> NDArray[Any]:
    """The inverse of `column`, where it lies."""
    if pa.types.is_fixed_size_binary(column.type):
        ids: NDArray[Any] = np.frombuffer(column.buffers()[1], f"V{ID_BYTES}", count=len(column))
        return ids
    if pa.types.is_fixed_size_list(column.type):
        boxes: NDArray[Any] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return boxes
    values: NDArray[Any] = column.to_numpy()
    return values
