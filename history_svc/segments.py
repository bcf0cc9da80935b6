"""The frame around each record of a log file, and what is read of a damaged file.

    marker "\\xd5POI" | payload length u32 | CRC-32 of the payload u32 | CRC-32 of the twelve bytes before u32 | payload

The marker and the head's own checksum let a reader find the next sound record after damage of any kind.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPAIRED: Final = ".repaired"
"""What a file that is repaired is called until it is whole."""
MARKER: Final = b"\xd5POI"
_HEAD: Final = struct.Struct("<4sIII")
_CHECKED: Final = struct.Struct("<4sII")
HEAD_BYTES: Final = _HEAD.size
"""What `frame` adds to a payload."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from start (inclusive) to end (exclusive)."""

    start: int
    end: int


def frame(payload: bytes) -> bytes:
    """The head that goes before `payload`."""
    head = _CHECKED.pack(MARKER, len(payload), zlib.crc32(payload))
    return head + zlib.crc32(head).to_bytes(4, "little")


def read(path: Path) -> Iterator[bytes | Span]:
    """The payloads of a file in order; a Span where nothing sound was found."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = 0
        while offset < size:
            payload = _record_at(data, offset, size)
            if payload is not None:
                yield payload
                offset += _HEAD.size + len(payload)
                continue
            sound = _next_sound(data, offset + 1, size)
            yield Span(offset, sound)
            offset = sound


def cut_tail(path: Path, at: int) -> None:
    """Makes the file end at `at`, durably."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, at)
        os.fsync(fd)
    finally:
        os.close(fd)


def cut_out(path: Path, spans: list[Span], keep: Callable[[str, bytes], object]) -> None:
    """Removes the damaged spans of a file once each was given to `keep` with a name, and leaves the rest, durably."""
    content = path.read_bytes()
    for span in spans:
        keep(f"{path.stem}-{span.start}.damaged", content[span.start : span.end])
    kept, offset = [], 0
    for span in spans:
        kept.append(content[offset : span.start])
        offset = span.end
    kept.append(content[offset:])
    draft = path.with_suffix(REPAIRED)
    write_durably(draft, b"".join(kept))
    draft.replace(path)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _record_at(data: mmap.mmap, offset: int, size: int) -> bytes | None:
    start = offset + _HEAD.size
    if start > size:
        return None
    head = data[offset:start]
    marker, length, payload_sum, head_sum = _HEAD.unpack(head)
    if marker != MARKER or zlib.crc32(head[: _CHECKED.size]) != head_sum or start + length > size:
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == payload_sum else None


def _next_sound(data: mmap.mmap, offset: int, size: int) -> int:
    while (found := data.find(MARKER, offset)) >= 0:
        if _record_at(data, found, size) is not None:
            return found
        offset = found + 1
    return size


def write_durably(path: Path, content: bytes) -> None:
    """Makes a file with this content, in place of one that is there; its name is durable with its directory."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
