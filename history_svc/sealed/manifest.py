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
_VERSION: Final = 1


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
    rows: int
    faces: int
    next_face: int
    """One more than the highest number of its faces."""
    oldest_ns: int
    newest_ns: int
    """Of its rows."""
    latest_ns: int
    """Of its rows, its appearances and its frames."""
    cameras: tuple[str, ...]
    """Those of its rows; a row's camera is a place in here."""
    files: dict[str, Sums]
    """Every file but this one."""

    @property
    def directory(self) -> str:
        """The name of the segment's directory."""
        return f"{self.first_log:012d}-{self.last_log:012d}"


def save(directory: Path, manifest: Manifest) -> None:
    """Writes it, durably. Raises OSError."""
    body = orjson.dumps({"version": _VERSION, **asdict(manifest)})
    files.write(directory / NAME, b'{"crc32":%d,"segment":%b}\n' % (zlib.crc32(body), body))


def load(directory: Path) -> Manifest:
    """Reads it, and checks it and the sizes of the files. Raises Damaged."""
    try:
        content = orjson.loads(files.read(directory / NAME))
        body = content["segment"]
        if zlib.crc32(orjson.dumps(body)) != content["crc32"]:
            raise Damaged("the manifest's checksum is wrong")
        if body.pop("version") != _VERSION:
            raise Damaged("the segment is of another version")
        body["header"] = Header(**body["header"])
        body["cameras"] = tuple(body["cameras"])
        body["files"] = {name: Sums(**sums) for name, sums in body["files"].items()}
        manifest = Manifest(**body)
        for name, sums in manifest.files.items():
            size = (directory / name).stat().st_size
            if size != sums.size:
                raise Damaged(f"{name} has {size} bytes, not {sums.size}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the manifest cannot be read: {error}") from None
    return manifest
