"""The HistoryIndex on Qdrant: detections as points, and searches among those with a face. Calls block.

A point of a detection is

    id              made of store and detection: written twice, it is there once
    vector          `face`, as it came: the distance is the dot product, because "cosine" would normalise it again
    store, camera, time_us, number, appearance, appearance_id, aligned        filtered by
    row             the detection's ROW, base64

and in place of one that was erased

    store, time_us, erased, was     `was` is its appearance, for who sends it again
"""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2
from qdrant_client import models

from history_svc.index import FOREVER, Faces, Hits, Probes, Scope, best_per_appearance
from history_svc.qdrant.collections import FACE
from history_svc.qdrant.database import Database, Payload, between, equals, one_of, point_id
from history_svc.records import ROW, Rows, Vectors

PAGE: Final = 1000
_OF_A_FACE: Final = ["number", "appearance", "camera", "row"]
# What a search may lose by rounding and is cut by us, exactly.
_MARGIN: Final = 1e-4
_NOT_ERASED: Final = models.Filter(must_not=[equals("erased", value=True)])


def detection_point_id(store: str, detection: bytes) -> str:
    """The id of a detection's point."""
    return point_id("detection", store, detection)


def point_of(
    store: str, number: int, appearance: int, camera: str, row: Rows, vector: NDArray[np.float32] | None
) -> models.PointStruct:
    """A detection, `row` of it a ROW scalar, as a point."""
    return models.PointStruct(
        id=detection_point_id(store, row["detection"].tobytes()),
        vector={} if vector is None else {FACE: vector.tolist()},
        payload={
            "store": store,
            "camera": camera,
            "time_us": int(row["time_ns"]) // 1000,
            "number": number,
            "appearance": appearance,
            "appearance_id": str(uuid.UUID(bytes=row["appearance"].tobytes())),
            "aligned": bool(row["alignment"] == common_pb2.ALIGNMENT_ALIGNED),
            "row": base64.b64encode(row.tobytes()).decode(),
        },
    )


class QdrantIndex:
    """A HistoryIndex.

    Similarities are computed here, from the vectors that Qdrant found. Whether it finds all is Qdrant's graph's
    business unless `exact` was asked for. A search raises Unavailable when Qdrant does not answer, rather than leave
    faces out.

    A number is the wall clock in microseconds when it was given, or one more than the one before. Processes do not
    agree on them: what another one takes at the moment of a search may be in its first page or come in with the next,
    as far as their clocks differ.
    """

    def __init__(
        self,
        database: Database,
        *,
        exact: bool = False,
        page: int = PAGE,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`page`: faces per answer."""
        self._database, self._page, self._clock = database, page, clock
        self._params = models.SearchParams(
            exact=exact,
            hnsw_ef=page,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0),
        )
        self._floor = -FOREVER
        self._numbering = threading.Lock()
        self._next_number = 0

    def __len__(self) -> int:
        return self._database.count(self._database.detections, self.faces())

    @property
    def next_number(self) -> int:
        with self._numbering:
            return max(self._next_number, self._clock())

    def numbers(self, count: int) -> range:
        """So many new ones."""
        with self._numbering:
            first = max(self._next_number, self._clock())
            self._next_number = first + count
            return range(first, first + count)

    def add(self, faces: Faces) -> None:
        """As the Protocol says; returns when Qdrant has them, durably. Those that are there are written over."""
        store = self._database.store
        each = zip(
            faces.numbers.tolist(), faces.appearances.tolist(), faces.cameras, faces.rows, faces.vectors, strict=True
        )
        self.write([point_of(store, *one) for one in each])
        if len(faces.numbers):
            with self._numbering:
                self._next_number = max(self._next_number, int(faces.numbers[-1]) + 1)

    def write(self, points: Sequence[models.PointStruct]) -> None:
        """Writes detections (see `point_of`), durably, except those that were erased."""
        self._database.put(self._database.detections, points, only=_NOT_ERASED)

    def stored(self, detections: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of the detections that are there, or were erased, and the appearance of each."""
        ids = {detection_point_id(self._database.store, one): one for one in detections}
        found = self._database.get(self._database.detections, ids, ["appearance_id", "was"])
        return {
            ids[key]: uuid.UUID(one["was"] if "was" in one else one["appearance_id"]).bytes
            for key, one in found.items()
        }

    def search(self, probes: Probes, min_similarity: float, scope: Scope) -> Hits:
        scope = self._kept(scope)
        kinds = [(probes.aligned, None)] if probes.same else [(probes.aligned, True), (probes.unaligned, False)]
        found: list[Any] = []
        for vectors, aligned in kinds:
            found += self._similar(vectors, min_similarity, scope, aligned=aligned)
        faces = _some_inside(self._faces(found), scope)
        cosines = _cosines(faces.vectors, probes.aligned)
        if not probes.same:
            is_aligned = faces.rows["alignment"] == common_pb2.ALIGNMENT_ALIGNED
            cosines = np.where(is_aligned, cosines, _cosines(faces.vectors, probes.unaligned))
        enough = np.flatnonzero(cosines >= np.float32(min_similarity))
        best = enough[best_per_appearance(faces.appearances[enough], cosines[enough], faces.numbers[enough])]
        return Hits(faces.appearances[best], cosines[best], faces.numbers[best], faces.rows[best])

    def faces_of(self, appearance: int, scope: Scope) -> tuple[Rows, Vectors]:
        scope = self._kept(scope)
        wanted = self.faces(scope, equals("appearance", appearance))
        points = list(self._database.scroll(self._database.detections, wanted, _OF_A_FACE, vectors=True))
        faces = _some_inside(self._faces(points), scope)
        order = np.argsort(faces.numbers, kind="stable")
        return faces.rows[order], faces.vectors[order]

    def drop_before(self, time_ns: int) -> None:
        """As the Protocol says, at once; `sweep` removes them."""
        self._floor = max(self._floor, time_ns)

    def sweep(self) -> int:
        """Removes what is too old, to the microsecond, makes sure that it is gone, and returns how many."""
        if self._floor <= -FOREVER:
            return 0
        unwanted = self._database.where(between("time_us", None, self._floor // 1000))
        return self._database.remove(self._database.detections, unwanted)

    def remove(self, appearances: Collection[int]) -> int:
        if not appearances:
            return 0
        faces = self._database.count(self._database.detections, self.faces(None, one_of("appearance", appearances)))
        self._database.remove(self._database.detections, self._database.where(one_of("appearance", appearances)))
        return faces

    def count(self, scope: Scope) -> int:
        """How many faces are in scope, times to the microsecond around it."""
        return self._database.count(self._database.detections, self.faces(scope))

    def faces(self, scope: Scope | None = None, *must: models.Condition) -> models.Filter:
        """A filter for faces in scope, times to the microsecond around it."""
        wanted: list[models.Condition] = [models.HasVectorCondition(has_vector=FACE), *must]
        if scope is not None:
            # Qdrant compares numbers as doubles: microseconds are whole in them, nanoseconds since 1970 are not.
            wanted.append(between("time_us", scope.start_ns // 1000, -(-scope.end_ns // 1000)))
            wanted.append(between("number", scope.after, scope.before))
            if scope.cameras is not None:
                wanted.append(one_of("camera", sorted(scope.cameras)))
        return self._database.where(*wanted)

    def close(self) -> None:
        self._database.close()

    def _similar(self, probes: Vectors, least: float, scope: Scope, *, aligned: bool | None) -> list[Any]:
        """The points in scope whose cosine to one of (q, d) is about `least`: more than it should by up to 1e-4.

        Some are there twice. An answer that is full is asked for again in two halves.
        """
        found: dict[str, Any] = {}
        open_ends = [(probe, scope.after, scope.before) for probe in probes]
        kind = [] if aligned is None else [equals("aligned", aligned)]
        while open_ends:
            some, open_ends = open_ends[:16], open_ends[16:]
            requests = [
                models.QueryRequest(
                    query=probe.tolist(),
                    using=FACE,
                    filter=self.faces(replace(scope, after=start, before=end), *kind),
                    params=self._params,
                    score_threshold=least - _MARGIN,
                    limit=self._page,
                    with_vector=True,
                    with_payload=_OF_A_FACE,
                )
                for probe, start, end in some
            ]
            for (probe, start, end), answer in zip(some, self._database.similar(requests), strict=True):
                numbers = sorted(_payload(point)["number"] for point in answer.points)
                middle = numbers[len(numbers) // 2] if len(numbers) == self._page else start
                if middle == start:  # not full
                    found |= {str(point.id): point for point in answer.points}
                    continue
                open_ends += [(probe, start, middle), (probe, middle, end)]
        return list(found.values())

    def _kept(self, scope: Scope) -> Scope:
        return replace(scope, start_ns=max(scope.start_ns, self._floor))

    def _faces(self, points: Sequence[Any]) -> Faces:
        payloads = [_payload(point) for point in points]
        vectors = np.array([point.vector[FACE] for point in points], np.float32)
        return Faces(
            np.array([one["number"] for one in payloads], np.int64),
            np.array([one["appearance"] for one in payloads], np.int64),
            [one["camera"] for one in payloads],
            np.frombuffer(b"".join(base64.b64decode(one["row"]) for one in payloads), ROW),
            vectors.reshape(-1, self._database.header.dimension),
        )


def _some_inside(faces: Faces, scope: Scope) -> Faces:
    """Those that are in scope to the nanosecond."""
    times = faces.rows["time_ns"]
    at = np.flatnonzero((times >= scope.start_ns) & (times < scope.end_ns))
    cameras = [faces.cameras[one] for one in at.tolist()]
    return Faces(faces.numbers[at], faces.appearances[at], cameras, faces.rows[at], faces.vectors[at])


def _cosines(vectors: Vectors, probes: Vectors) -> NDArray[np.float32]:
    """(n,) each vector's best. One dot product at a time: a matrix product's last digits depend on the neighbours."""
    best: NDArray[np.float32] = np.vecdot(vectors[:, None, :], probes[None, :, :]).max(axis=1, initial=-1.0)
    # Rounding may carry a cosine of 1 over it.
    return np.minimum(best, np.float32(1.0))


def _payload(point: Any) -> Payload:
    payload: Payload = point.payload
    return payload
