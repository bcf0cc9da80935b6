"""What was erased: a file for each erasure, so that it is finished after a crash, and that nothing of it comes back.

The file is on disk before anything is removed. While its erasure is `pending` it says which appearances and frames are
not there any more, although files may still hold them. Once it is done its detections are remembered until they
would be too old: a camera pipeline may send them again. What is left then is the receipt.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from history_svc.quarantine import Quarantine
from history_svc.records import Erased, Frame
from history_svc.sealed import files
from history_svc.segments import fsync_directory
from mesh.errors import InvalidArgument

_log = structlog.get_logger(__name__)
_SUFFIX: Final = ".json"
_COPY: Final = ".copy"
"""Each erasure is there twice: if its only file were damaged, what it hides would be found again."""
_ID: Final = 16


@dataclass(frozen=True, slots=True)
class Receipt:
    """See Erasure in the contract; times in ns since 1970. `done_ns` is 0 while it goes on."""

    id: str
    """32 hex digits."""
    request_id: str
    begun_ns: int
    done_ns: int
    appearances: int
    detections: int
    faces: int
    frames: int
    files: int = 0
    quarantined: int = 0
    content: str = ""
    """Digest of what was asked for; "" where that is not told apart."""


def check_repeat(known: Receipt, content: str) -> None:
    """Raises InvalidArgument where the request id of a known erasure comes with another content."""
    if content and known.content not in ("", content):
        raise InvalidArgument(
            violations=[("request_id", "was used to erase something else")], reason="REQUEST_ID_REUSED"
        )


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure as it is kept."""

    receipt: Receipt
    appearances: tuple[bytes, ...] = ()
    """Their ids; none once it is long done."""
    detections: Mapping[bytes, bytes] = field(default_factory=dict)
    """The appearance of each."""
    frames: tuple[Frame, ...] = ()
    """Those that are left to be removed."""

    @property
    def erased(self) -> Erased:
        """What must not be found."""
        return Erased(frozenset(self.appearances), frozenset(one.id for one in self.frames))


class Erasures:
    """See the module. The methods that write block."""

    def __init__(self, directory: Path, quarantine: Quarantine) -> None:
        """Reads what is there, and puts aside what is damaged. Raises OSError."""
        self._directory, self._quarantine = directory, quarantine
        directory.mkdir(parents=True, exist_ok=True)
        fsync_directory(directory.parent)
        self._known: dict[str, Erasure] = {}
        for path in sorted(directory.iterdir()):
            if path.suffix == files.DRAFT:
                path.unlink()  # was being written
            elif path.suffix in (_SUFFIX, _COPY):
                self._read(path)
        self._derive()

    def get(self, erasure_id: str) -> Receipt | None:
        """The receipt of an erasure."""
        found = self._known.get(erasure_id)
        return found.receipt if found is not None else None

    def of_request(self, request_id: str) -> Receipt | None:
        """The receipt of the erasure that was asked for with this request id."""
        return next((one.receipt for one in self._known.values() if one.receipt.request_id == request_id), None)

    def all(self) -> list[Erasure]:
        """Every erasure, done or not."""
        return list(self._known.values())

    @property
    def pending(self) -> list[Erasure]:
        """What has begun and is not done."""
        return self._pending

    @property
    def erased(self) -> Erased:
        """What of them must not be found."""
        return self._erased

    def all_appearances(self) -> frozenset[bytes]:
        """All appearances that were erased, done or not, and that may be heard of again."""
        return frozenset(one for erasure in self._known.values() for one in erasure.appearances)

    def appearance_of(self, detection: bytes) -> bytes | None:
        """The appearance of a detection that was erased."""
        return self._detections.get(detection)

    def write(self, erasure: Erasure) -> None:
        """Makes it durable, as it is now. Raises OSError."""
        for suffix in (_SUFFIX, _COPY):
            path = self._directory / f"{erasure.receipt.id}{suffix}"
            draft = path.with_suffix(files.DRAFT)
            draft.unlink(missing_ok=True)
            files.write(draft, _encode(erasure))
            draft.replace(path)
            fsync_directory(self._directory)

    def take(self, erasure: Erasure) -> None:
        """From now on it counts as it is. Of the loop's thread."""
        self._known[erasure.receipt.id] = erasure
        self._derive()

    def forgettable(self, time_ns: int) -> list[Erasure]:
        """Those that were done before `time_ns`, without their detections: these are too old to come again."""
        return [
            replace(one, appearances=(), detections={})
            for one in self._known.values()
            if one.detections and 0 < one.receipt.done_ns < time_ns
        ]

    def _read(self, path: Path) -> None:
        try:
            erasure = _decode(files.read(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.error("erasure_unreadable", file=path.name, why=str(error))
            self._quarantine.take(path, "it cannot be read")
            return
        known = self._known.get(erasure.receipt.id)
        if known is None or erasure.receipt.done_ns > known.receipt.done_ns:  # a crash between the two
            self._known[erasure.receipt.id] = erasure

    def _derive(self) -> None:
        self._pending = [one for one in self._known.values() if not one.receipt.done_ns]
        parts = [one.erased for one in self._pending]
        self._erased = Erased(
            frozenset().union(*(one.appearances for one in parts)), frozenset().union(*(one.frames for one in parts))
        )
        self._detections = {key: one for erasure in self._known.values() for key, one in erasure.detections.items()}


def _encode(erasure: Erasure) -> bytes:
    receipt = erasure.receipt
    body: dict[str, Any] = {name: getattr(receipt, name) for name in Receipt.__slots__}
    pairs = b"".join(key + one for key, one in erasure.detections.items())
    kept = [[one.id, one.camera, one.time_ns, one.kind, one.size] for one in erasure.frames]
    content = orjson.dumps(
        {
            "receipt": body,
            "appearances": [one.hex() for one in erasure.appearances],
            "detections": base64.b64encode(pairs).decode(),
            "frames": kept,
        }
    )
    return b'{"crc32":%d,"erasure":%b}\n' % (zlib.crc32(content), content)


def _decode(content: bytes) -> Erasure:
    whole = orjson.loads(content)
    body = whole["erasure"]
    if zlib.crc32(orjson.dumps(body)) != whole["crc32"]:
        raise ValueError("the checksum is wrong")
    pairs = base64.b64decode(body["detections"])
    detections = {pairs[at : at + _ID]: pairs[at + _ID : at + 2 * _ID] for at in range(0, len(pairs), 2 * _ID)}
    appearances = tuple(bytes.fromhex(one) for one in body["appearances"])
    return Erasure(Receipt(**body["receipt"]), appearances, detections, tuple(Frame(*one) for one in body["frames"]))
