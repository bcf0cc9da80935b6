"""Evidence frames: JPEG files under the data directory. Calls block."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

from history_svc.segments import fsync_directory

_PART_BYTES: Final = 64 << 10
# Markers without a length (T.81, B.1.1.3): fill, TEM, RSTn, SOI; and those that begin a frame and hold its size.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def frame_id(camera: str, time_ns: int, image: bytes) -> str:
    """32 hex digits that depend only on what is given, so that a repeat is the same frame."""
    digest = hashlib.blake2b(f"{camera}\0{time_ns}\0".encode(), digest_size=16)
    digest.update(hashlib.blake2b(image, digest_size=16).digest())
    return digest.hexdigest()


def is_jpeg(image: bytes) -> bool:
    """Whether this is a JPEG: markers from SOI to a frame header that gives a size. Its pixels are not decoded."""
    if image[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 9 <= len(image):
        if image[at] != 0xFF:
            return False
        marker = image[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in _FRAME_HEADERS:
            # Only the width: a height of 0 is allowed, it is said later in the scan (DNL).
            return image[at + 7 : at + 9] != b"\0\0"
        at += 2 + max(2, int.from_bytes(image[at + 2 : at + 4], "big"))
    return False


class FrameFiles:
    """Frames by id, in 256 directories."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (directory / f"{number:02x}").mkdir(exist_ok=True)
        fsync_directory(directory)

    def save(self, frame: str, image: bytes) -> None:
        """Makes a frame durable. Raises OSError when the disk does not take it, and leaves nothing then."""
        path = self._path(frame)
        if path.exists():
            # Durable: the name appears only after the content is. The name itself may not be yet.
            fsync_directory(path.parent)
            return
        fd, draft = tempfile.mkstemp(dir=path.parent, suffix=".draft")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(image)
                file.flush()
                os.fdatasync(fd)
            Path(draft).replace(path)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)

    def parts(self, frame: str) -> Generator[bytes, None, None]:
        """The image in parts of at most 64 KiB. Raises FileNotFoundError at the first."""
        with self._path(frame).open("rb") as file:
            while part := file.read(_PART_BYTES):
                yield part

    def remove(self, frames: list[str]) -> None:
        """Removes frames; those that are not there are none."""
        for frame in frames:
            self._path(frame).unlink(missing_ok=True)

    def remove_others(self, known: set[str]) -> int:
        """Removes every file that is no known frame: what a crash left. Returns how many."""
        removed = 0
        for path in self._directory.glob("??/*"):
            if path.suffix != ".jpg" or path.stem not in known:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _path(self, frame: str) -> Path:
        return self._directory / frame[:2] / f"{frame}.jpg"
