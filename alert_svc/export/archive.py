"""The zip of a case file, and its manifest. The same content gives the same bytes."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import Any, Final

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

_IN_MEMORY: Final = 1 << 20
"""More of a zip is on disk: a client may take its time."""
_FIRST_YEAR: Final = 1980
MANIFEST: Final = "manifest.json"


def as_json(value: Any) -> bytes:
    """Indented, with sorted keys."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


class Archive:
    """A zip under construction. All of it blocks: call it in a thread."""

    def __init__(self, moment: Timestamp) -> None:
        """`moment` is the time of all files in it."""
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  (handed over by `finish`)
        self._zip = zipfile.ZipFile(self._file, "w")
        when = moment.ToDatetime()
        self._time = (max(when.year, _FIRST_YEAR), when.month, when.day, when.hour, when.minute, when.second)
        self._files: list[dict[str, Any]] = []
        self._missing: list[dict[str, str]] = []

    def add(self, name: str, content: bytes, source: str = "") -> None:
        """Writes a file; `source` is the resource that it is of."""
        self._write(name, content)
        told = {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self._files.append(told | ({"source": source} if source else {}))

    def miss(self, name: str, reason: str, detail: str) -> None:
        """Notes that a file cannot be had."""
        self._missing.append({"name": name, "reason": reason, "detail": detail})

    def finish(self, about: Mapping[str, Any]) -> SpooledTemporaryFile[bytes]:
        """Writes the manifest, which begins with `about`; the whole zip, from its beginning. The caller closes it."""
        self._write(MANIFEST, as_json({**about, "files": self._files, "missing": self._missing}))
        self._zip.close()
        self._file.seek(0)
        return self._file

    def abandon(self) -> None:
        """Nobody wants it any more."""
        with suppress(ValueError):  # a thread may still be writing
            self._zip.close()  # or it would complain when it is collected, of a file that is closed
        self._file.close()

    def _write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, self._time)
        entry.compress_type = zipfile.ZIP_STORED if name.endswith(".jpg") else zipfile.ZIP_DEFLATED
        entry.external_attr = 0o644 << 16
        entry.create_system = 3  # Unix, wherever it was made
        self._zip.writestr(entry, content)
