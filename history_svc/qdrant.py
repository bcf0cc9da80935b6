"""The HistoryIndex for a store that has outgrown one machine: its faces are in Qdrant, a vector database.

`add` never waits for the network: it runs in the thread that everything else waits for. Faces are searched here, in
memory, until Qdrant has confirmed them; one thread hands them over, in the order of their numbers, and tries again
for as long as it takes. They are not lost meanwhile: the detection log had them first, and replay adds again what
Qdrant lacks. What it has, replay only names: the numbers of appearances are of one run, their ids are for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from poi.v1 import common_pb2
from prometheus_client import Gauge
from qdrant_client import QdrantClient

from history_svc.index import Faces, Hits, Probes, Scope
from history_svc.qdrant_collection import connect
from history_svc.qdrant_points import BATCH, Points
from history_svc.records import ROW, Header, Rows, Vectors, raw_ids
from mesh.errors import Unavailable

WAITING = Gauge("poi_history_qdrant_waiting", "Faces in memory and in the log that Qdrant has not confirmed yet.")
_ROOM: Final = 65_536
_SETTLE_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = (0.1, 0.5, 2.0, 10.0)
_FOREVER: Final = 1 << 62

_log = structlog.get_logger(__name__)


def open_index(url: str, header: Header, *, exact: bool, resend: bool = False) -> QdrantIndex:
    """The index of `header.store` on the server at `url` (see qdrant_collection.connect). Raises as Points does."""
    return QdrantIndex(Points(connect(url), header, nullcontext(), exact=exact), header.dimension, resend=resend)


def open_local(
    client: QdrantClient, header: Header, *, turn: AbstractContextManager[Any], page: int = 1000
) -> QdrantIndex:
    """The index in the local mode of qdrant-client, which compares all faces: for tests and for trying out."""
    return QdrantIndex(Points(client, header, turn, page=page), header.dimension)


class QdrantIndex:
    """A HistoryIndex on Qdrant.

    Similarities are computed here, from the vectors that Qdrant found. Whether it finds all is Qdrant's graph's
    business unless `exact` was asked for. A search raises Unavailable when Qdrant does not answer, rather than leave
    faces out. Removes what is too old in the background. `resend`: what is added is sent even if Qdrant should have it.
    """

    def __init__(self, points: Points, dimension: int, *, resend: bool = False) -> None:
        self._points, self._dimension = points, dimension
        newest = points.newest_numbers(BATCH + 1)
        # What earlier runs wrote. The last request of theirs may be there in part: what is `settled` was before it.
        self._inherited = newest[0] + 1 if newest else 0
        self._settled = newest[-1] + 1 if len(newest) > BATCH and not resend else 0
        self._next_number = self._inherited
        self._stored = points.count()
        # The appearances of inherited faces, as far as replay has named them: number by id, id by number.
        self._numbers: dict[bytes, int] = {}
        self._ids: dict[int, bytes] = {}
        self._floor = self._swept = -_FOREVER
        self._waiting: deque[Faces] = deque()
        self._waiting_count = 0
        self._closing = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="qdrant", daemon=True)
        self._worker.start()

    def __len__(self) -> int:
        with self._changed:
            return self._stored + self._waiting_count

    @property
    def next_number(self) -> int:
        return self._next_number

    def add(self, faces: Faces) -> None:
        """As the Protocol says. Called outside of an event loop, as by replay, it waits while 65,536 faces wait."""
        if not len(faces.numbers):
            return
        self._next_number = max(self._next_number, int(faces.numbers[-1]) + 1)
        known = faces.numbers < self._inherited
        if known.any():
            for one, number in zip(
                raw_ids(faces.rows["appearance"][known]), faces.appearances[known].tolist(), strict=True
            ):
                self._numbers[one], self._ids[number] = number, one
        faces = _some(faces, faces.numbers >= self._settled)
        with self._changed:
            if len(faces.numbers):
                self._waiting.append(faces)
                self._waiting_count += len(faces.numbers)
                WAITING.set(self._waiting_count)
                self._changed.notify_all()
            if not _in_event_loop():
                self._changed.wait_for(lambda: self._waiting_count < _ROOM or self._closing)

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        scope = self._kept(scope)
        same = probes.aligned is probes.unaligned or np.array_equal(probes.aligned, probes.unaligned)
        kinds = [(probes.aligned, None)] if same else [(probes.aligned, True), (probes.unaligned, False)]
        # Before Qdrant is asked: what is handed over meanwhile is found twice, which is harmless.
        parts = self._in_memory(scope)
        for vectors, aligned in kinds:
            parts.append(self._named(self._points.similar(vectors, min_similarity, scope, aligned=aligned), scope))
        faces = _joined(parts, self._dimension)
        cosines = _cosines(faces.vectors, probes.aligned)
        if not same:
            is_aligned = faces.rows["alignment"] == common_pb2.ALIGNMENT_ALIGNED
            cosines = np.where(is_aligned, cosines, _cosines(faces.vectors, probes.unaligned))
        enough = cosines >= np.float32(min_similarity)
        return _best(_some(faces, enough), cosines[enough])

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        scope = self._kept(scope)
        parts = self._in_memory(scope)
        parts.append(self._named(self._points.of_appearance(appearance, self._ids.get(appearance), scope), scope))
        faces = _joined(parts, self._dimension)
        faces = _some(faces, faces.appearances == appearance)
        _, once = np.unique(faces.numbers, return_index=True)  # by number
        return faces.rows[once], faces.vectors[once]

    def drop_before(self, time_ns: int) -> None:
        with self._changed:
            self._floor = max(self._floor, time_ns)
            self._changed.notify_all()

    def remove(self, appearances: Collection[int]) -> int:
        """Removes all faces of these appearances, makes sure that they are gone, and says how many Qdrant had.

        Blocks. A log that still has them brings the newest of them back at the next start: it must forget them first.
        Raises Unavailable when some may still be there.
        """
        numbers = np.array(sorted(appearances), np.int64)
        # So that none of them is on its way while they are removed.
        if not self.settle(_SETTLE_SECONDS):
            raise Unavailable("the vector database is behind", reason="INDEX_UNAVAILABLE", retry_after=1.0)
        ids = [self._ids[one] for one in numbers.tolist() if one in self._ids]
        # A number of an earlier run may be that of another appearance.
        removed = self._points.remove_appearances(numbers.tolist(), self._inherited, ids)
        self._recount()
        return removed

    def count(self, scope: Scope) -> int:
        """How many faces Qdrant has in scope, times to the microsecond around it."""
        return self._points.count(scope)

    def settle(self, timeout: float | None = None) -> bool:
        """Waits until Qdrant has confirmed all that was added and dropped; False when `timeout` seconds did not do."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closing or not self._to_do(), timeout) and not self._to_do()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._worker.join()
        self._points.close()

    def _kept(self, scope: Scope) -> Scope:
        return replace(scope, start_ns=max(scope.start_ns, self._floor))

    def _in_memory(self, scope: Scope) -> list[Faces]:
        with self._changed:
            waiting = list(self._waiting)
        return [_some(faces, _inside(faces, scope)) for faces in waiting]

    def _named(self, faces: Faces, scope: Scope) -> Faces:
        """What is in scope to the nanosecond, with this run's numbers; without faces of appearances unknown to it."""
        faces = _some(faces, _inside(faces, scope))
        inherited = np.flatnonzero(faces.numbers < self._inherited)
        if not len(inherited):
            return faces
        appearances = faces.appearances.copy()
        appearances[inherited] = [self._numbers.get(one, -1) for one in raw_ids(faces.rows["appearance"][inherited])]
        faces = Faces(faces.numbers, appearances, faces.cameras, faces.rows, faces.vectors)
        return _some(faces, appearances >= 0)

    def _to_do(self) -> bool:
        return bool(self._waiting) or self._floor > self._swept

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if failures:
                    delay = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1]
                    self._changed.wait_for(lambda: self._closing, delay)
                self._changed.wait_for(lambda: self._closing or self._to_do())
                if self._closing:
                    return
                batch = self._next_batch()
            try:
                self._hand_over(batch)
                failures = 0
            except Unavailable as error:
                failures += 1
                _log.error("qdrant_behind", why=str(error), faces=self._waiting_count, failures=failures)
            except Exception:
                # A defect: without this thread nothing would ever reach Qdrant, and nobody would know.
                failures += 1
                _log.exception("qdrant_behind", faces=self._waiting_count, failures=failures)

    def _next_batch(self) -> list[Faces]:
        batch: list[Faces] = []
        count = 0
        for faces in self._waiting:
            batch.append(faces)
            count += len(faces.numbers)
            if count >= BATCH:
                break
        return batch

    def _hand_over(self, batch: list[Faces]) -> None:
        floor = self._floor
        if batch:
            faces = _joined(batch, self._dimension)
            self._points.write(faces)
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._waiting_count -= len(faces.numbers)
                self._stored += int(np.count_nonzero(faces.numbers >= self._inherited))
                WAITING.set(self._waiting_count)
                self._changed.notify_all()
        if floor > self._swept:
            self._points.remove_before(floor)
            self._recount()
            with self._changed:
                self._swept = floor
                self._changed.notify_all()

    def _recount(self) -> None:
        self._stored = self._points.count()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _inside(faces: Faces, scope: Scope) -> NDArray[np.bool_]:
    times = faces.rows["time_ns"]
    mask: NDArray[np.bool_] = (times >= scope.start_ns) & (times < scope.end_ns) & (faces.numbers < scope.before)
    if scope.cameras is not None:
        mask &= np.array([camera in scope.cameras for camera in faces.cameras], np.bool_)
    return mask


def _some(faces: Faces, mask: NDArray[np.bool_]) -> Faces:
    cameras = [camera for camera, wanted in zip(faces.cameras, mask.tolist(), strict=True) if wanted]
    return Faces(faces.numbers[mask], faces.appearances[mask], cameras, faces.rows[mask], faces.vectors[mask])


def _joined(parts: list[Faces], dimension: int) -> Faces:
    none = Faces(
        np.zeros(0, np.int64), np.zeros(0, np.int64), (), np.zeros(0, ROW), np.zeros((0, dimension), np.float32)
    )
    parts = [part for part in parts if len(part.numbers)] or [none]
    return Faces(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.appearances for part in parts]),
        [camera for part in parts for camera in part.cameras],
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.vectors for part in parts]),
    )


def _cosines(vectors: Vectors, probes: Vectors) -> NDArray[np.float32]:
    """(n,) each vector's best. One dot product at a time: a matrix product's last digits depend on the neighbours."""
    best: NDArray[np.float32] = np.vecdot(vectors[:, None, :], probes[None, :, :]).max(axis=1, initial=-1.0)
    # Rounding may carry a cosine of 1 over it.
    return np.minimum(best, np.float32(1.0))


def _best(faces: Faces, cosines: NDArray[np.float32]) -> Hits:
    """The most similar face, of equals the first, of each appearance."""
    order = np.lexsort((faces.numbers, -cosines, faces.appearances))
    appearances, first = np.unique(faces.appearances[order], return_index=True)
    best = order[first]
    return Hits(appearances, cosines[best], faces.numbers[best], faces.rows[best])
