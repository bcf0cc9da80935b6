"""The faces of one segment, searched where they lie."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from history_svc.index import NOTHING, Faces, Hits, Probes, Scope, best_per_appearance, cosines
from history_svc.records import Rows, Vectors
from history_svc.sealed import build, files
from history_svc.sealed.appearance_table import AppearanceTable
from history_svc.sealed.frame_table import FrameTable
from history_svc.sealed.manifest import Damaged, Manifest
from history_svc.sealed.rotation import rotated
from history_svc.sealed.tables import KeyTable, RowTable
from history_svc.seam import PLAIN, Mapped, Seam, Table

# Measured at 10 M faces of 256 dimensions (recall 0.9999): the standard error of an estimate is 0.04.
_FIRST: Final = 64
_MARGIN: Final = 0.16
_FACTOR: Final = 4
_MOST: Final = 20_000
"""From here on reading all vectors in order is faster than picking them out."""
_EXACT_ROWS: Final = 2048
_BLOCK_ROWS: Final = 4096
_thread = threading.local()


class SealedFaces:
    """See the module. Raises Damaged when the files are not what the manifest says."""

    def __init__(self, directory: Path, manifest: Manifest, seam: Seam = PLAIN) -> None:
        self.manifest = manifest
        self._dimension = manifest.header.dimension
        self.index = _load_index(directory, manifest, seam)
        self._vector_file, self._row_file, self._key_file, self._appearance_file, self._sum_file, self._frame_file = (
            seam.map(directory / name)
            for name in (build.VECTORS, build.ROWS, build.KEYS, build.APPEARANCES, build.SUMS, build.FRAMES)
        )
        self._files = (self._vector_file, self._row_file, self._key_file, self._appearance_file, self._sum_file,
                       self._frame_file)  # fmt: skip
        # What is wrong in columns of fixed size gives wrong answers, and is found in the background; in those of any
        # size it may lead out of the file.
        _check(directory, manifest, build.APPEARANCES)
        _check(directory, manifest, build.FRAMES)
        self.table = RowTable(self._row_file.view())
        self._keys = KeyTable(self._key_file.view(), self.table)
        self.appearances = AppearanceTable(
            self._appearance_file.view(), self._sum_file.view(), manifest.cameras, self._dimension
        )
        self.frames = FrameTable(self._frame_file.view())
        if (len(self.table), len(self.appearances)) != (manifest.rows, manifest.appearances):
            raise Damaged("the tables are not of the size that the manifest says")
        self.vectors: Table = self._vector_file.table("<f2", self._dimension)
        if len(self.vectors) != manifest.faces:
            raise Damaged("the vectors are not as many as the manifest says")
        faces = slice(manifest.faces)
        self._times, self._numbers = self.table.times[faces], self.table.numbers[faces]
        self._cameras, self._appearances = self.table.cameras[faces], self.table.appearances[faces]
        self._codes = {name: code for code, name in enumerate(manifest.cameras)}
        self.trim()

    def __len__(self) -> int:
        return self.manifest.faces

    def overlaps(self, scope: Scope) -> bool:
        """Whether any face of it may be in scope."""
        known = self.manifest
        return (
            known.faces > 0
            and known.newest_ns >= scope.start_ns
            and known.oldest_ns < scope.end_ns
            and (scope.cameras is None or any(camera in self._codes for camera in scope.cameras))
        )

    def hits(self, at: NDArray[np.intp] | None, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        """As HistoryIndex.search, of the faces at these rising places; of all when None."""
        if at is None or len(at):
            self._check_sizes(self._vector_file, self._row_file)  # 3 us a file
        if at is None:
            found = [self._exact(np.flatnonzero(block) + start, probes, min_similarity)
                     for start, block in self._blocks(scope)]  # fmt: skip
            found_at = np.concatenate([one for one, _ in found] or [np.zeros(0, np.intp)])
            similarities = np.concatenate([one for _, one in found] or [np.zeros(0, np.float32)])
        else:
            # Most segments have nobody like this: they cost the scan and nothing else.
            if not len(at):
                return NOTHING
            at = at[self._wanted(at, scope)]
            if not len(at):
                self.trim()
                return NOTHING
            width = 2 * self._dimension
            self._vector_file.prefetch(at.astype(np.int64) * width, width)
            found_at, similarities = self._exact(at, probes, min_similarity)
        best = best_per_appearance(self._appearances[found_at], similarities, self._numbers[found_at])
        chosen = found_at[best]
        hits = Hits(self._appearances[chosen], similarities[best], self._numbers[chosen], self.table.rows(chosen))
        self.trim()
        return hits

    def find(self, detections: Sequence[bytes], times: NDArray[np.int64]) -> dict[bytes, bytes]:
        """The appearance of each detection that is stored here. `times` (n,) are theirs, in ns since 1970."""
        inside = np.flatnonzero((times >= self.manifest.oldest_ns) & (times <= self.manifest.newest_ns))
        return self._keys.find([detections[at] for at in inside.tolist()]) if len(inside) else {}

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        """As HistoryIndex.faces_of."""
        at = np.flatnonzero(self._appearances == appearance)
        at = at[self._wanted(at, scope)]
        return self.table.rows(at), self.vectors[at].astype(np.float32)

    def faces(self) -> Faces:
        """All of them, as they were added."""
        rows = self.table.rows(np.arange(self.manifest.faces))
        names = self.manifest.cameras
        cameras = [names[code] for code in self._cameras.tolist()]
        return Faces(self._numbers, self._appearances, cameras, rows, self.vectors[:].astype(np.float32))

    def trim(self) -> None:
        """Takes what was read off this process; the page cache keeps it while there is room."""
        for file in self._files:
            file.trim()

    def check_sizes(self) -> None:
        """Raises Damaged when a file was cut short: reading on would end this process."""
        self._check_sizes(*self._files)

    def _check_sizes(self, *files: Mapped) -> None:
        if any(file.cut for file in files):
            raise Damaged("a file was cut short")

    def _blocks(self, scope: Scope) -> list[tuple[int, NDArray[np.bool_]]]:
        """Blocks with a face in scope: where they start, and which of theirs are."""
        wanted = self._wanted(np.arange(self.manifest.faces), scope)
        blocks = [(start, wanted[start : start + _BLOCK_ROWS]) for start in range(0, len(wanted), _BLOCK_ROWS)]
        return [(start, block) for start, block in blocks if block.any()]

    def _wanted(self, at: NDArray[np.intp], scope: Scope) -> NDArray[np.bool_]:
        times = self._times[at]
        mask: NDArray[np.bool_] = (times >= scope.start_ns) & (times < scope.end_ns)
        if scope.before < self.manifest.next_face:
            mask &= self._numbers[at] < scope.before
        if scope.after > 0:
            mask &= self._numbers[at] >= scope.after
        if scope.cameras is not None:
            wanted = [self._codes[camera] for camera in scope.cameras if camera in self._codes]
            mask &= np.isin(self._cameras[at], wanted)
        return mask

    def _exact(
        self, at: NDArray[np.intp], probes: Probes, min_similarity: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Those of the faces at these places that are as similar, and their similarities."""
        vectors = self.vectors[at].astype(np.float32)
        aligned = self.table.alignments[at] == common_pb2.ALIGNMENT_ALIGNED
        return cosines(vectors, aligned, at, probes, min_similarity)


def search(segments: Sequence[SealedFaces], probes: Probes, min_similarity: float, scope: Scope) -> list[Hits]:
    """As HistoryIndex.search, of each of the segments. Few at a time: they share the estimates' limits."""
    templates = probes.aligned if probes.same else np.concatenate([probes.aligned, probes.unaligned])
    found = _candidates(segments, rotated(templates), min_similarity - _MARGIN)
    return [one.hits(at, probes, min_similarity, scope) for one, at in zip(segments, found, strict=True)]


def _candidates(segments: Sequence[SealedFaces], templates: Vectors, least: float) -> list[NDArray[np.intp] | None]:
    """For each segment the rising places of faces with such an estimate; None where all are to be read.

    `templates` are rotated.
    """
    scanned = [one for one in segments if one.index is not None]
    if not scanned:
        return [None] * len(segments)
    _one_thread()
    # One call for all: a thread that comes back from faiss waits for an interpreter that appends keep busy.
    together = faiss.IndexShards(templates.shape[1], False, True)  # type: ignore[call-arg] # the stub lacks this one
    for one in scanned:
        together.add_shard(one.index)
    starts = np.cumsum([0, *map(len, scanned)]).tolist()
    asked = _FIRST
    while asked <= min(_MOST, min(map(len, scanned)) // 2):
        estimates, at = together.search(templates, asked)
        if estimates[:, -1].max() < least:
            at = np.unique(at[estimates >= least]).astype(np.intp)
            cuts = np.searchsorted(at, starts)
            parts = iter([at[cut:end] - start for cut, end, start in zip(cuts, cuts[1:], starts, strict=False)])
            return [None if one.index is None else next(parts) for one in segments]
        asked *= _FACTOR
    if len(segments) == 1:
        return [None]
    return [_candidates([one], templates, least)[0] for one in segments]  # perhaps too many in one of them only


def _load_index(directory: Path, manifest: Manifest, seam: Seam) -> Any:
    """None for one that is not searched: there are few faces, or they are all alike and have no estimates."""
    stored = files.read(directory / build.INDEX)
    if zlib.crc32(stored) != manifest.files[build.INDEX].crc32:
        raise Damaged(f"the checksum of {build.INDEX} is wrong")
    if manifest.faces <= _EXACT_ROWS:
        return None
    index = faiss.deserialize_index(np.frombuffer(seam.open(stored), np.uint8))
    _one_thread()
    estimates, at = index.search(np.ones((1, manifest.header.dimension), np.float32), _FIRST)
    return index if at.min() >= 0 and np.isfinite(estimates).all() else None


def _one_thread() -> None:
    """Of this thread only: with OpenMP threads of its own each search is 2.5 to 4 times slower."""
    if getattr(_thread, "ready", False) is False:
        faiss.omp_set_num_threads(1)
        _thread.ready = True


def _check(directory: Path, manifest: Manifest, name: str) -> None:
    if files.crc32(directory / name) != manifest.files[name].crc32:
        raise Damaged(f"the checksum of {name} is wrong")
