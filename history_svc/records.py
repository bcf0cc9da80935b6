"""The form of detections and frames in the log, and of detections in memory.

A record is a group of batches: packed rows of fixed size, then the vectors of those with a face as little-endian
float32, so that replay reads whole arrays. The appearance that was decided is part of the row: replay decides nothing
again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(n, d) float32, L2-normalised."""
Rows = NDArray[np.void]
"""(n,) of ROW."""

HAS_PERSON_BOX: Final = 1
HAS_FACE_BOX: Final = 2
HAS_VECTOR: Final = 4

ROW: Final = np.dtype(
    [
        ("detection", "V16"),
        ("appearance", "V16"),
        ("time_ns", "<i8"),  # since 1970
        ("track", "<u2"),  # in the record's table of (camera, object id)
        ("flags", "u1"),
        ("alignment", "u1"),  # poi.v1.Alignment
        ("person_box", "<f4", 4),  # x, y, width, height in pixels
        ("face_box", "<f4", 4),
        ("person_confidence", "<f4"),
        ("face_confidence", "<f4"),
    ]
)
PACKED: Final = struct.Struct("<16s16sqHBB4f4fff")
"""ROW as a struct: packing one row this way takes 1 us, through numpy 10."""
assert PACKED.size == ROW.itemsize

_HALVES: Final = struct.Struct("<QQ")
_64_BITS: Final = (1 << 64) - 1
_DETECTIONS: Final = 1
_FRAME: Final = 2
_HEADER: Final = 3
_HEAD: Final = struct.Struct("<BxxxIIIQ")
# kind, rows, vectors, bytes of the track table, number of the first vector

Track = tuple[str, str]
"""(camera id, object id)"""


@dataclass(frozen=True, slots=True)
class Detections:
    """A group of detections. `vectors[i]` is of the i-th row with HAS_VECTOR, and has the number `first_face + i`."""

    tracks: Sequence[Track]
    rows: Rows
    vectors: Vectors
    first_face: int


@dataclass(frozen=True, slots=True)
class Frame:
    """An evidence frame. The image is in a file of its own, named after `id` (32 hex digits)."""

    id: str
    camera: str
    time_ns: int
    kind: int
    size: int


@dataclass(frozen=True, slots=True)
class FrameLink:
    """A frame and the appearances it shows."""

    frame: Frame
    appearances: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    """Appearances that are to be nowhere, and the frames that show any of them."""

    appearances: frozenset[bytes] = frozenset()
    frames: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Header:
    """The first record of each log file: whose vectors it holds."""

    store: str
    model: str
    dimension: int


def encode_detections(tracks: Sequence[Track], rows: bytes, vectors: Vectors, first_face: int) -> bytes:
    """The record of a batch; `rows` are PACKED rows."""
    table = orjson.dumps(tracks)
    head = _HEAD.pack(_DETECTIONS, len(rows) // PACKED.size, len(vectors), len(table), first_face)
    return b"".join((head, table, rows, vectors.astype("<f4", copy=False).tobytes()))


def encode_frame(link: FrameLink) -> bytes:
    """The record of a frame."""
    frame = link.frame
    content = [frame.id, frame.camera, frame.time_ns, frame.kind, frame.size, [one.hex() for one in link.appearances]]
    return bytes((_FRAME,)) + orjson.dumps(content)


def encode_header(header: Header) -> bytes:
    """The record that begins a file."""
    return bytes((_HEADER,)) + orjson.dumps([header.store, header.model, header.dimension])


def decode(payload: bytes, dimension: int) -> Detections | FrameLink | Header:
    """The content of a record whose checksum is right. Raises ValueError for one of another version or dimension."""
    kind = payload[0] if payload else 0
    if kind == _DETECTIONS:
        return _decode_detections(payload, dimension)
    if kind == _FRAME:
        frame_id, camera, time_ns, frame_kind, size, appearances = orjson.loads(payload[1:])
        return FrameLink(
            Frame(frame_id, camera, time_ns, frame_kind, size), tuple(bytes.fromhex(one) for one in appearances)
        )
    if kind == _HEADER:
        return Header(*orjson.loads(payload[1:]))
    raise ValueError(f"unknown kind of record {kind}")


def _decode_detections(payload: bytes, dimension: int) -> Detections:
    _, n_rows, n_vectors, table_size, first_face = _HEAD.unpack_from(payload)
    start = _HEAD.size + table_size
    vectors_at = start + n_rows * ROW.itemsize
    if len(payload) != vectors_at + n_vectors * dimension * 4:
        raise ValueError("a batch whose size does not add up")
    tracks = [(camera, object_id) for camera, object_id in orjson.loads(payload[_HEAD.size : start])]
    rows: Rows = np.frombuffer(payload, dtype=ROW, count=n_rows, offset=start)
    vectors = np.frombuffer(payload, dtype="<f4", count=n_vectors * dimension, offset=vectors_at)
    return Detections(tracks, rows, vectors.reshape(n_vectors, dimension), first_face)


def unpack(row: bytes) -> Rows:
    """One packed row as a ROW scalar array of shape ()."""
    one: Rows = np.frombuffer(row, dtype=ROW)[0]
    return one


def rounded(vectors: Vectors) -> Vectors:
    """The vectors as they are searched: in half precision, so that sealing changes no similarity."""
    return vectors.astype(np.float16).astype(np.float32)


def appearance_numbers(ids: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) what indexes call the appearances with the ids in a V16 column: `id_keys` of 63 bits.

    Of a million appearances two have one number with a probability of 5e-8.
    """
    numbers: NDArray[np.int64] = (id_keys(ids) >> np.uint64(1)).astype(np.int64)
    return numbers


def id_keys(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """(n,) the ids of a V16 column in 64 bits, the same everywhere.

    Ids need not be random, so their halves are mixed (the finaliser of SplitMix64).
    """
    halves = np.frombuffer(np.ascontiguousarray(ids).tobytes(), "<u8").reshape(-1, 2)
    return _mix(_mix(halves[:, 0] + np.uint64(0x9E3779B97F4A7C15)) ^ halves[:, 1])


def appearance_number(appearance: bytes) -> int:
    """The number of one id (numpy takes 15 us for one)."""
    first, second = _HALVES.unpack(appearance)
    return _mixed(_mixed((first + 0x9E3779B97F4A7C15) & _64_BITS) ^ second) >> 1


def _mixed(value: int) -> int:
    """`_mix` of one."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return value ^ (value >> 31)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def raw_ids(column: NDArray[Any]) -> list[bytes]:
    """The 16-byte ids of a V16 column as bytes."""
    ids: list[bytes] = column.tolist()
    return ids
