"""What a segment says of itself."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from history_svc.records import Header
from history_svc.sealed import files
from history_svc.sealed.files import Sums

NAME: Final = "manifest.json"
_VERSION: Final = 2


class Damaged(Exception):
    """A segment is not what its manifest says, or has none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """See the fields. Times are event times in ns since 1970, both inclusive."""

    header: Header
    """Whose vectors it holds."""
    first_log: int
    last_log: int
    """The log files that it stands for."""
    generation: int
    """Of several with the same log files the highest is the segment."""
    rows: int
    faces: int
    appearances: int
    fresh: int
    """How many of the appearances are in no earlier segment."""
    next_face: int
    """One more than the highest number of its faces."""
    oldest_ns: int
    newest_ns: int
    """Of its rows."""
    latest_ns: int
    """Of its rows, its appearances and its frames."""
    cameras: tuple[str, ...]
    """Those of its rows and appearances, which name a place in here."""
    camera_rows_ns: tuple[int, ...]
    camera_ends_ns: tuple[int, ...]
    """Of each camera the newest row, and the newest end of an appearance; -1 without one."""
    files: dict[str, Sums]
    """Every file but this one."""

    @property
    def directory(self) -> str:
        """The name of the segment's directory."""
        return f"{self.first_log:012d}-{self.last_log:012d}.{self.generation}"

    def replaces(self, other: Manifest) -> bool:
        """Whether all that is in `other` is in this one, or was erased."""
        if (self.first_log, self.last_log) == (other.first_log, other.last_log):
            return self.generation > other.generation
        return self.first_log <= other.first_log and other.last_log <= self.last_log


def save(directory: Path, manifest: Manifest) -> None:
    """Writes it, durably. Raises OSError."""
    body = orjson.dumps({"version": _VERSION, **asdict(manifest)})
    files.write(directory / NAME, b'{"crc32":%d,"segment":%b}\n' % (zlib.crc32(body), body))


def load(directory: Path) -> Manifest:
    """Reads it, and checks it, the directory's name and the sizes of the files. Raises Damaged."""
    manifest = read(directory)
    if manifest.directory != directory.name:
        raise Damaged(f"this is a copy of {manifest.directory}")
    for name, sums in manifest.files.items():
        try:
            size = (directory / name).stat().st_size
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error}") from None
        if size != sums.size:
            raise Damaged(f"{name} has {size} bytes, not {sums.size}")
    return manifest


def read(directory: Path) -> Manifest:
    """Reads it, and checks it alone. Raises Damaged."""
    try:
        content = orjson.loads(files.read(directory / NAME))
        body = content["segment"]
        if zlib.crc32(orjson.dumps(body)) != content["crc32"]:
            raise Damaged("the manifest's checksum is wrong")
        if body.pop("version") != _VERSION:
            raise Damaged("the segment is of another version")
        body["header"] = Header(**body["header"])
        for name in ("cameras", "camera_rows_ns", "camera_ends_ns"):
            body[name] = tuple(body[name])
        body["files"] = {name: Sums(**sums) for name, sums in body["files"].items()}
        return Manifest(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"the manifest cannot be read: {error}") from None
