"""Turns closed log files into a segment. Blocks; runs in a thread of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from history_svc import segments
from history_svc.appearances import Appearance
from history_svc.ledger import LogFile
from history_svc.records import (
    HAS_VECTOR,
    ROW,
    Detections,
    FrameLink,
    Header,
    Rows,
    appearance_numbers,
    decode,
)
from history_svc.sealed import files, manifest, tables
from history_svc.sealed.manifest import Damaged, Manifest

INDEX: Final = "faces.faiss"
VECTORS: Final = "vectors.f16"
ROWS: Final = "rows.arrow"
KEYS: Final = "keys.arrow"
APPEARANCES: Final = "appearances.arrow"
FRAMES: Final = "frames.arrow"
_ROTATION_SEED: Final = 20_261_121


@dataclass(frozen=True, slots=True)
class Content:
    """What goes into a segment. `rows[i]` is of `cameras[i]`; the first len(vectors) rows are those of the vectors."""

    rows: Rows
    cameras: list[str]
    numbers: NDArray[np.int64]
    """(n,) the faces' numbers, rising, then -1 for rows without a vector."""
    vectors: NDArray[np.float16]
    owners: NDArray[np.int64]
    """(n,) the numbers of the rows' appearances."""
    appearances: Sequence[Appearance]
    frames: Sequence[FrameLink]


def seal(directory: Path, header: Header, logs: Sequence[LogFile]) -> Manifest:
    """Writes the segment of these log files. Raises Damaged when they cannot be read, OSError."""
    return write(directory, header, logs[0].closed.number, logs[-1].closed.number, gather(header, logs))


def gather(header: Header, logs: Sequence[LogFile]) -> Content:
    """What the log files have. Raises Damaged, OSError."""
    rows: list[Rows] = [np.zeros(0, ROW)]
    cameras: list[str] = []
    numbers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    vectors = [np.zeros((0, header.dimension), np.float16)]
    links: list[FrameLink] = []
    touched: dict[bytes, Appearance] = {}
    for log in logs:
        touched |= log.touched
        for at, payload in enumerate(_payloads(log)):
            try:
                content = decode(payload, header.dimension)
            except ValueError:
                continue  # replay left it out, too
            if isinstance(content, FrameLink):
                links.append(content)
            elif isinstance(content, Detections):
                kept = np.array([(at, row) not in log.repeats for row in range(len(content.rows))], np.bool_)
                has_face = (content.rows["flags"] & HAS_VECTOR) != 0
                number = np.full(len(kept), -1, np.int64)
                number[has_face] = content.first_face + np.arange(has_face.sum())
                rows.append(content.rows[kept])
                numbers.append(number[kept])
                vectors.append(content.vectors[kept[has_face]].astype(np.float16))
                names = [camera for camera, _ in content.tracks]
                cameras += [names[track] for track in rows[-1]["track"].tolist()]
    all_rows, all_numbers = np.concatenate(rows), np.concatenate(numbers)
    # Those with a vector first; stable, so that numbers go on rising.
    order = np.argsort(all_numbers < 0, kind="stable")
    return Content(
        all_rows[order],
        [cameras[at] for at in order.tolist()],
        all_numbers[order],
        np.concatenate(vectors),
        appearance_numbers(all_rows["appearance"][order]),
        list(touched.values()),
        links,
    )


def write(directory: Path, header: Header, first_log: int, last_log: int, content: Content) -> Manifest:
    """Writes a segment under `directory`, durably and whole or not at all. Raises OSError."""
    names = sorted(set(content.cameras))
    codes = {name: code for code, name in enumerate(names)}
    cameras = np.array([codes[name] for name in content.cameras], np.int32)
    times = content.rows["time_ns"]
    parts: dict[str, bytes | memoryview] = {
        INDEX: _encode_index(content.vectors),
        VECTORS: content.vectors.astype("<f2", copy=False).tobytes(),
        ROWS: tables.encode_rows(content.rows, cameras, content.numbers, content.owners),
        KEYS: tables.encode_keys(content.rows),
        APPEARANCES: tables.encode_appearances(content.appearances, header.dimension),
        FRAMES: tables.encode_frames(content.frames),
    }
    ends = [one.end_ns for one in content.appearances] + [one.frame.time_ns for one in content.frames]
    newest = int(times.max(initial=0))
    draft = directory / f"{first_log:012d}-{last_log:012d}{files.DRAFT}"
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    try:
        written = Manifest(
            header,
            first_log,
            last_log,
            rows=len(times),
            faces=len(content.vectors),
            next_face=int(content.numbers.max(initial=-1)) + 1,
            oldest_ns=int(times.min(initial=newest)),
            newest_ns=newest,
            latest_ns=max([newest, *ends]),
            cameras=tuple(names),
            files={name: files.write(draft / name, part) for name, part in parts.items()},
        )
        manifest.save(draft, written)
        files.publish(draft, directory / written.directory)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return written


def _payloads(log: LogFile) -> Iterator[bytes]:
    offset = 0
    for payload in segments.read(log.closed.path):
        if offset >= log.closed.size:
            return
        if isinstance(payload, segments.Span):
            raise Damaged(f"{log.closed.path.name} is damaged at {payload.start}")
        yield payload
        offset += segments.HEAD_BYTES + len(payload)


def _encode_index(vectors: NDArray[np.float16]) -> bytes:
    count, dimension = vectors.shape
    if not count:
        return b""
    faiss.omp_set_num_threads(1)  # of this thread; the other cores are for searches
    rotation = faiss.RandomRotationMatrix(dimension, dimension)
    rotation.init(_ROTATION_SEED)
    index = faiss.IndexPreTransform(rotation, faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT))
    whole = vectors.astype(np.float32)
    index.train(whole)
    index.add(whole)
    content: bytes = faiss.serialize_index(index).tobytes()
    return content
