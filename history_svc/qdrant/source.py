"""A history in files, read and never changed, also while its service runs: what there is to be moved. Blocks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from history_svc import segments
from history_svc.appearances import Appearance, Rules
from history_svc.book import Book
from history_svc.erasure import Erasure, Erasures
from history_svc.ledger import Ledger
from history_svc.quarantine import Quarantine
from history_svc.records import HAS_VECTOR, Detections, Frame, Header, Rows, Vectors, decode, raw_ids
from history_svc.replay import OtherData, Replay
from history_svc.sealed import manifest
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.index import SegmentedIndex
from history_svc.sealed.manifest import Damaged
from history_svc.seam import PLAIN, Seam
from history_svc.stored import Stored
from mesh.vault import Unopenable

_ROWS = 1024


class Incomplete(Exception):
    """A history cannot be moved as a whole, or was not."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the detections."""

    rows: Rows
    cameras: list[str]
    numbers: list[int]
    """Of the faces that are searched; -1 of the other detections."""
    vectors: Vectors
    """Of these faces, in order."""


class Source:
    """The history in a data directory. What is older than `floor_ns` or erased is left out.

    Raises Incomplete, replay.OtherData, OSError.
    """

    def __init__(
        self, directory: Path, header: Header, rules: Rules, floor_ns: int, scratch: Path, seam: Seam = PLAIN
    ) -> None:
        """`scratch` is a directory for itself; `seam` as in store.History."""
        self._header, self._floor_ns, self._seam = header, floor_ns, seam
        self.index = SegmentedIndex(header.dimension, 2)
        self._sealed = _sealed(directory, header, seam)
        spans = [(one.manifest.first_log, one.manifest.last_log) for _, one in self._sealed]
        self._logs = [
            path
            for path in sorted(directory.glob("detections-*.log"))
            if not any(first <= int(path.stem.rpartition("-")[2]) <= last for first, last in spans)
        ]
        if not self._logs and not self._sealed:
            raise Incomplete(f"there is no history in {directory}")
        erasures = scratch / "erasures"
        if (directory / "erasures").exists():
            shutil.copytree(directory / "erasures", erasures)
        self._erasures = Erasures(erasures, Quarantine(scratch / "quarantine"))
        if self._erasures.pending:
            raise Incomplete("an erasure is not done yet: let the service finish it, and try again")
        self._book = Book(rules.gap_ns)
        stored = Stored(self.index, self._book, self._erasures, rules.gap_ns)
        for _, segment in self._sealed:
            self.index.take(segment)
            stored.note(segment)
        ledger = Ledger(self._book, 1 << 40, 1e12)
        replay = Replay(header, self._book, self.index, rules, ledger, stored, self._erasures.erased)
        for path in self._logs:
            for payload in self._payloads(path):
                try:
                    replay.apply(payload)
                except ValueError:
                    continue  # damaged: the service sees to it
        self.index.drop_before(floor_ns)
        self._shelf = self.index.shelf

    @property
    def size(self) -> int:
        """About how many detections there are."""
        return sum(one.manifest.rows for _, one in self._sealed) + self._book.detection_count

    def parts(self) -> Iterator[Part]:
        """All detections, each once."""
        for _, segment in self._sealed:
            for start in range(0, segment.manifest.rows, _ROWS):
                yield self._sealed_part(segment, start, min(start + _ROWS, segment.manifest.rows))
        seen: set[bytes] = set()
        for path in self._logs:
            for payload in self._payloads(path):
                try:
                    content = decode(payload, self._header.dimension)
                except ValueError:
                    continue
                if isinstance(content, Detections) and len(content.rows):
                    yield self._log_part(content, seen)

    def appearances(self) -> Iterator[list[Appearance]]:
        """All appearances as they are last, some at a time."""
        newest = self._book.newest_first(None, None, None)
        yield newest
        done = {one.number for one in newest}
        for _, segment in self._sealed[::-1]:
            found = [one for one in segment.appearances.read(sums=True) if one.number not in done]
            done.update(one.number for one in found)
            yield [one for one in found if one.end_ns >= self._floor_ns]

    def frames(self) -> list[Frame]:
        """All evidence frames."""
        found = {link.frame.id: link.frame for _, segment in self._sealed for link in segment.frames.links()}
        found |= {one.id: one for one in self._book_frames()}
        return [one for one in found.values() if one.time_ns >= self._floor_ns]

    def erasures(self) -> list[Erasure]:
        """What was erased: it must not come back."""
        return self._erasures.all()

    def close(self) -> None:
        """Frees threads and memory."""
        self.index.close()

    def _sealed_part(self, segment: SealedFaces, start: int, end: int) -> Part:
        rows = segment.table.rows(slice(start, end))
        kept = np.flatnonzero(rows["time_ns"] >= self._floor_ns)
        places = kept + start
        names = segment.manifest.cameras
        faces = segment.vectors[places[places < segment.manifest.faces]].astype(np.float32)
        cameras = [names[code] for code in segment.table.cameras[places].tolist()]
        return Part(rows[kept], cameras, segment.table.numbers[places].tolist(), faces)

    def _log_part(self, content: Detections, seen: set[bytes]) -> Part:
        rows = content.rows
        has_face = (rows["flags"] & HAS_VECTOR) != 0
        numbers = np.full(len(rows), -1, np.int64)
        numbers[has_face] = content.first_face + np.arange(has_face.sum())
        detections = raw_ids(rows["detection"])
        known = self._shelf.detections(detections, rows["time_ns"])
        kept = rows["time_ns"] >= self._floor_ns
        for at, detection in enumerate(detections):
            if detection in seen or detection in known or self._erasures.appearance_of(detection) is not None:
                kept[at] = False
            seen.add(detection)
        cameras = [content.tracks[track][0] for track in rows["track"][kept].tolist()]
        faces: NDArray[np.float32] = content.vectors[kept[has_face]]
        return Part(rows[kept], cameras, numbers[kept].tolist(), faces)

    def _book_frames(self) -> Iterable[Frame]:
        for path in self._logs:
            for payload in self._payloads(path):
                try:
                    content = decode(payload, self._header.dimension)
                except ValueError:
                    continue
                if not isinstance(content, Detections | Header):
                    yield content.frame

    def _payloads(self, path: Path) -> Iterator[bytes]:
        """The records of a log file that are not damaged nor, at this moment, being written."""
        try:
            for payload in segments.read(path):
                if not isinstance(payload, segments.Span):
                    with suppress(ValueError):
                        yield self._seam.open(payload)
        except FileNotFoundError:
            return  # sealed or too old by now: the service removed it


def _sealed(directory: Path, header: Header, seam: Seam) -> list[tuple[Path, SealedFaces]]:
    """The segments that count, oldest first."""
    opened = []
    for path in sorted((directory / "segments").glob("*")):
        if re.fullmatch(r"\d+-\d+\.\d+", path.name):  # else it is being written, or removed
            try:
                opened.append((path, SealedFaces(path, manifest.load(path), seam)))
            except (Damaged, OSError, RuntimeError, Unopenable) as error:
                raise Incomplete(f"the segment {path.name} cannot be read: {error}") from None
    for _, one in opened:
        if one.manifest.header != header:
            raise OtherData.of(one.manifest.header, header)
    return [
        (path, one)
        for path, one in opened
        if not any(other.manifest.replaces(one.manifest) for _, other in opened if other is not one)
    ]
