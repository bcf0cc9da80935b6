"""Reads what becomes a segment: from log files, and from segments that are to be one, or to lose what was erased."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from history_svc import metrics, segments
from history_svc.appearances import Appearance
from history_svc.intake import face_scores
from history_svc.ledger import LogFile
from history_svc.quarantine import Quarantine
from history_svc.records import (
    HAS_VECTOR,
    ROW,
    Detections,
    Erased,
    FrameLink,
    Header,
    Rows,
    appearance_number,
    appearance_numbers,
    decode,
    raw_ids,
)
from history_svc.sealed.build import Content
from history_svc.sealed.faces import SealedFaces
from history_svc.seam import Seam
from mesh.vault import Unopenable

_log = structlog.get_logger(__name__)
_NS: Final = 1_000_000_000


def from_logs(
    header: Header,
    logs: Sequence[LogFile],
    every_seconds: float,
    erased: Erased,
    quarantine: Quarantine,
    seam: Seam,
) -> Content:
    """What the log files have, without what was erased. What is damaged goes to quarantine. Raises OSError.

    Of each appearance the first, last and best face, and one in `every_seconds`, go on being searched; all if 0.
    """
    rows: list[Rows] = [np.zeros(0, ROW)]
    cameras: list[str] = []
    numbers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    vectors = [np.zeros((0, header.dimension), np.float16)]
    links: list[FrameLink] = []
    touched: dict[bytes, Appearance] = {}
    seen: set[bytes] = set()
    next_face = 0
    for log in logs:
        touched |= log.touched
        for content in _records(log, header.dimension, quarantine, seam):
            if isinstance(content, FrameLink):
                links.append(content)
            elif isinstance(content, Detections):
                kept = _new(content.rows, seen, log.repeats)
                has_face = (content.rows["flags"] & HAS_VECTOR) != 0
                number = np.full(len(kept), -1, np.int64)
                number[has_face] = content.first_face + np.arange(has_face.sum())
                next_face = max(next_face, content.first_face + len(content.vectors))
                rows.append(content.rows[kept])
                numbers.append(number[kept])
                vectors.append(content.vectors[kept[has_face]].astype(np.float16))
                names = [camera for camera, _ in content.tracks]
                cameras += [names[track] for track in rows[-1]["track"].tolist()]
    all_rows, all_numbers, all_vectors = np.concatenate(rows), np.concatenate(numbers), np.concatenate(vectors)
    faces = np.flatnonzero(all_numbers >= 0)
    if every_seconds > 0:
        searched = samples(all_rows[faces], int(every_seconds * _NS))
        all_numbers[faces[~searched]] = -1
        all_vectors = all_vectors[searched]
    appearances = list(touched.values())
    whole = Content(
        all_rows,
        cameras,
        all_numbers,
        all_vectors,
        appearance_numbers(all_rows["appearance"]),
        appearances,
        links,
        next_face,
        sum(not one.shelved for one in appearances),
    )
    return _without(_ordered(whole), erased)


def from_segments(found: Sequence[SealedFaces], erased: Erased) -> Content:
    """What segments, oldest first, have, without what was erased."""
    tables = [one.table for one in found]
    vectors = np.concatenate([one.vectors[:] for one in found])
    rows = np.concatenate([one.rows(slice(None)) for one in tables])
    numbers = np.concatenate([one.numbers for one in tables])
    cameras = [one.manifest.cameras[code] for one in found for code in one.table.cameras.tolist()]
    appearances: dict[bytes, Appearance] = {}
    for one in found:
        appearances |= {state.id: state for state in one.appearances.read(sums=True)}
    content = Content(
        rows,
        cameras,
        numbers,
        vectors,
        np.concatenate([one.appearances for one in tables]),
        list(appearances.values()),
        [link for one in found for link in one.frames.links()],
        max(one.manifest.next_face for one in found),
        min(len(appearances), sum(one.manifest.fresh for one in found)),
    )
    return _without(_ordered(content), erased)


def samples(rows: Rows, every_ns: int) -> NDArray[np.bool_]:
    """(n,) which of n faces go on being searched: of each appearance first, last, best, and the first in `every_ns`."""
    if not len(rows):
        return np.zeros(0, np.bool_)
    owners, times = appearance_numbers(rows["appearance"]), rows["time_ns"]
    kept = np.zeros(len(rows), np.bool_)
    by_time = np.lexsort((times, owners))
    new = _changes(owners[by_time])
    kept[by_time[new]] = True
    kept[by_time[np.append(new[1:], len(rows)) - 1]] = True
    by_score = np.lexsort((-face_scores(rows), owners))
    kept[by_score[_changes(owners[by_score])]] = True
    # Seconds of an appearance count from its first face.
    begin = np.repeat(times[by_time[new]], np.diff(np.append(new, len(rows))))
    ticks = (times[by_time] - begin) // every_ns
    first = np.ones(len(rows), np.bool_)
    first[1:] = (ticks[1:] != ticks[:-1]) | (owners[by_time][1:] != owners[by_time][:-1])
    kept[by_time[first]] = True
    return kept


def _changes(values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where the runs of equal values begin."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


def _ordered(content: Content) -> Content:
    """With the searched faces first, by number."""
    searched = content.numbers >= 0
    order = np.concatenate([np.flatnonzero(searched), np.flatnonzero(~searched)])
    by_number = np.argsort(content.numbers[searched], kind="stable")
    order[: len(by_number)] = order[by_number]
    return _rows(content, order, content.vectors[by_number])


def _without(content: Content, erased: Erased) -> Content:
    if not erased.appearances and not erased.frames:
        return content
    gone = {appearance_number(one) for one in erased.appearances}
    at = np.flatnonzero(~np.isin(content.owners, np.array(list(gone), np.int64)))
    left = _rows(content, at, content.vectors[at[at < len(content.vectors)]])
    appearances = [_without_frames(one, erased) for one in content.appearances if one.number not in gone]
    frames = [
        FrameLink(link.frame, tuple(one for one in link.appearances if one not in erased.appearances))
        for link in content.frames
        if link.frame.id not in erased.frames
    ]
    fresh = max(0, content.fresh - len(content.appearances) + len(appearances))
    return replace(left, appearances=appearances, frames=frames, fresh=fresh)


def _without_frames(appearance: Appearance, erased: Erased) -> Appearance:
    kept = appearance.copy()
    kept.frames = tuple(frame for frame in appearance.frames if frame.id not in erased.frames)
    return kept


def _rows(content: Content, at: NDArray[np.intp], vectors: NDArray[np.float16]) -> Content:
    return replace(
        content,
        rows=content.rows[at],
        cameras=[content.cameras[place] for place in at.tolist()],
        numbers=content.numbers[at],
        vectors=vectors,
        owners=content.owners[at],
    )


def _new(rows: Rows, seen: set[bytes], repeats: Collection[bytes]) -> NDArray[np.bool_]:
    """(n,) which rows are of detections that were neither seen nor stored before; they are seen now."""
    new = np.ones(len(rows), np.bool_)
    for at, detection in enumerate(raw_ids(rows["detection"])):
        if detection in seen or detection in repeats:
            new[at] = False
        seen.add(detection)
    return new


def _records(
    log: LogFile, dimension: int, quarantine: Quarantine, seam: Seam
) -> Iterator[Detections | FrameLink | Header]:
    """Sound records of what was acknowledged of a log file. The others' bytes are kept: the file will be removed."""
    path, offset = log.closed.path, 0
    if not path.exists():
        _log.error("log_file_lost", file=path.name)
        return  # trying again does not bring it back, and all that comes after it would wait
    for found in segments.read(path):
        if offset >= log.closed.size:
            return
        start = offset
        if isinstance(found, segments.Span):
            offset = found.end
        else:
            offset += segments.HEAD_BYTES + len(found)
            try:
                content = decode(seam.open(found), dimension)
            except Unopenable:
                raise  # it is the keys that are wrong: the file stays until they are back
            except ValueError:
                pass  # of another version, or of another key
            else:
                yield content
                continue
        with path.open("rb") as file:
            file.seek(start)
            damaged = file.read(offset - start)
        if quarantine.keep(f"{path.stem}-{start}.damaged", damaged, log.closed.time):
            metrics.QUARANTINED_BYTES.inc(len(damaged))
            _log.error("damage_put_aside", file=path.name, at=start, bytes=len(damaged))
