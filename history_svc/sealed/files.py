"""Files of sealed segments: made durable, checked, named, removed. What is in them passed the seam. Calls block."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from history_svc.segments import fsync_directory

DRAFT: Final = ".draft"
_GONE: Final = ".gone"
_PART_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sums:
    """What a file must be: its size in bytes, its CRC-32 and its SHA-256 in hex."""

    size: int
    crc32: int
    sha256: str


def write(path: Path, content: bytes | memoryview) -> Sums:
    """Makes a new file durable; its name is durable with its directory (`publish`). Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Sums(len(content), zlib.crc32(content), hashlib.sha256(content).hexdigest())


def read(path: Path) -> bytes:
    """The whole file. Raises OSError."""
    return path.read_bytes()


def crc32(path: Path) -> int:
    """The CRC-32 of what is stored. Raises OSError."""
    total = 0
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            total = zlib.crc32(part, total)
    return total


def check(path: Path, wanted: Sums) -> bool:
    """Whether the file is what it must be, to the last bit. Leaves the page cache as it was. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
    return size == wanted.size and digest.hexdigest() == wanted.sha256


def publish(draft: Path, final: Path) -> None:
    """Gives a directory of durable files its name, at once and for good."""
    fsync_directory(draft)
    draft.rename(final)
    fsync_directory(final.parent)


def remove(directory: Path) -> None:
    """Removes a directory; a crash in between leaves none that looks whole."""
    gone = directory.with_name(directory.name + _GONE)
    try:
        directory.rename(gone)
    except FileNotFoundError:
        return  # it was put aside
    fsync_directory(directory.parent)
    shutil.rmtree(gone)


def clear_unfinished(parent: Path) -> None:
    """Removes what a crash left of `write` and `remove`."""
    for path in [*parent.glob(f"*{DRAFT}"), *parent.glob(f"*{_GONE}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
