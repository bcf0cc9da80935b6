"""What goes into a segment, and how it is written. Blocks; runs in a thread of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from history_svc.appearances import Appearance
from history_svc.records import FrameLink, Header, Rows
from history_svc.sealed import appearance_table, files, frame_table, manifest, tables
from history_svc.sealed.manifest import Manifest
from history_svc.sealed.rotation import rotated
from history_svc.seam import PLAIN, Seam

INDEX: Final = "faces.faiss"
VECTORS: Final = "vectors.f16"
ROWS: Final = "rows.arrow"
KEYS: Final = "keys.arrow"
APPEARANCES: Final = "appearances.arrow"
SUMS: Final = "sums.f32"
FRAMES: Final = "frames.arrow"


@dataclass(frozen=True, slots=True)
class Content:
    """What goes into a segment. `rows[i]` is of `cameras[i]`; the first len(vectors) rows are those of the vectors."""

    rows: Rows
    cameras: list[str]
    numbers: NDArray[np.int64]
    """(n,) the faces' numbers, rising, then -1 for rows whose face is not searched, or that have none."""
    vectors: NDArray[np.float16]
    owners: NDArray[np.int64]
    """(n,) the numbers of the rows' appearances."""
    appearances: Sequence[Appearance]
    frames: Sequence[FrameLink]
    next_face: int
    """One more than the highest number of a face that was in what this is made of."""
    fresh: int
    """How many of the appearances are in no earlier segment."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a segment stands for: log files from first to last; see Manifest.generation."""

    first_log: int
    last_log: int
    generation: int = 0


def write(directory: Path, header: Header, place: Place, content: Content, seam: Seam = PLAIN) -> Manifest:
    """Writes a segment under `directory`, durably and whole or not at all. Raises OSError."""
    names = sorted({*content.cameras, *(one.camera for one in content.appearances)})
    codes = {name: code for code, name in enumerate(names)}
    cameras = np.array([codes[name] for name in content.cameras], np.int32)
    times = content.rows["time_ns"]
    table, sums = appearance_table.encode(content.appearances, codes, header.dimension)
    pages: dict[str, bytes | memoryview] = {
        VECTORS: content.vectors.astype("<f2", copy=False).tobytes(),
        ROWS: tables.encode_rows(content.rows, cameras, content.numbers, content.owners),
        KEYS: tables.encode_keys(content.rows),
        APPEARANCES: table,
        SUMS: sums,
        FRAMES: frame_table.encode(content.frames),
    }
    parts: dict[str, bytes | memoryview] = {INDEX: seam.seal(_encode_index(content.vectors))}
    parts |= {name: seam.seal_pages(part) for name, part in pages.items()}
    rows_ns = np.full(len(names), -1, np.int64)
    np.maximum.at(rows_ns, cameras, times)
    ends_ns = dict.fromkeys(names, -1)
    for one in content.appearances:
        ends_ns[one.camera] = max(ends_ns[one.camera], one.end_ns)
    newest = int(times.max(initial=0))
    draft = directory / f"{place.first_log:012d}-{place.last_log:012d}.{place.generation}{files.DRAFT}"
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    try:
        written = Manifest(
            header,
            place.first_log,
            place.last_log,
            place.generation,
            rows=len(times),
            faces=len(content.vectors),
            appearances=len(content.appearances),
            fresh=content.fresh,
            next_face=content.next_face,
            oldest_ns=int(times.min(initial=newest)),
            newest_ns=newest,
            latest_ns=max([newest, *ends_ns.values(), *(one.frame.time_ns for one in content.frames)]),
            cameras=tuple(names),
            camera_rows_ns=tuple(rows_ns.tolist()),
            camera_ends_ns=tuple(ends_ns.values()),
            files={name: files.write(draft / name, part) for name, part in parts.items()},
        )
        manifest.save(draft, written)
        files.publish(draft, directory / written.directory)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return written


def _encode_index(vectors: NDArray[np.float16]) -> bytes:
    count, dimension = vectors.shape
    if not count:
        return b""
    faiss.omp_set_num_threads(1)  # of this thread; the other cores are for searches
    index = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT)
    whole = rotated(vectors.astype(np.float32))
    index.train(whole)
    index.add(whole)
    content: bytes = faiss.serialize_index(index).tobytes()
    return content
