"""Copies a history from files to Qdrant and an object store, and checks that all of it is there. Blocks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from qdrant_client import models

from history_svc.appearances import Appearance
from history_svc.frames import FrameStore
from history_svc.index import Probes, Scope
from history_svc.qdrant.database import Database, between, equals
from history_svc.qdrant.erasing import Eraser
from history_svc.qdrant.index import QdrantIndex, point_of
from history_svc.qdrant.reads import QdrantReads
from history_svc.qdrant.source import Incomplete, Part, Source
from history_svc.qdrant.states import (
    TrackState,
    appearance_point,
    frame_point,
    frame_point_id,
    track_point,
    uuid_of,
)
from history_svc.qdrant.tracks import Tracks
from history_svc.records import Frame, Vectors, appearance_numbers, raw_ids
from mesh.errors import DataLoss

SAMPLES: Final = 20
"""Faces that are searched for, here and there."""
ENOUGH: Final = 0.999
"""The part of what is found here that these searches must find there: Qdrant's graph is an approximation."""
_EDGE: Final = 1e-3  # of a similarity: sealed faces are in half precision
_HOUR_NS: Final = 3_600_000_000_000
_MIGRATED: Final = "migrated"
_BATCH: Final = 512

Tell = Callable[[str], None]
Bar = Callable[[str, Iterable[Part], int], Iterable[Part]]
"""Gives the parts on, and shows how far they are: what they are for, the parts, about how many detections."""


class Migration:
    """A copy of `source`, and its check. `copy` first, then `check`; both may be repeated."""

    def __init__(
        self,
        source: Source,
        database: Database,
        kept: FrameStore | None,
        frames: FrameStore,
        tell: Tell,
        *,
        exact: bool,
    ) -> None:
        """`kept` has the images where they are now; None when that is `frames` already."""
        self._source, self._database, self._kept, self._frames, self._tell = source, database, kept, frames, tell
        self._index = QdrantIndex(database, exact=exact)
        self._reads = QdrantReads(database)
        self._random = np.random.default_rng()
        self._samples: list[Vectors] = []

    def copy(self, bar: Bar, *, everything: bool) -> None:
        """Sends what Qdrant lacks, or `everything`. Raises Incomplete, MeshError."""
        served = self._database.where(equals("kind", "track"))
        served.must_not = [equals("version", _MIGRATED)]
        if self._database.count(self._database.records, served):
            raise Incomplete("somebody appends to this store in Qdrant already, and would be overwritten")
        sent = total = 0
        for part in bar("detections", self._source.parts(), self._source.size):
            self._sample(part)
            sent += self._send(part, everything=everything)
            total += len(part.rows)
        self._tell(f"{total:,} detections in files, {sent:,} sent")
        self._forget_erased()
        images = asyncio.run(self._copy_frames())
        appearances = sum(map(self._send_appearances, self._source.appearances()))
        self._tell(f"{appearances:,} appearances, {images:,} images of frames sent")

    def check(self, bar: Bar, least: float, floor_ns: int) -> None:
        """Compares counts by camera, and what searches for the samples find. Raises Incomplete."""
        # The service may drop what gets too old meanwhile.
        scope = Scope(start_ns=(floor_ns + _HOUR_NS) // 1000 * 1000)
        detections: Counter[str] = Counter()
        for part in bar("check", self._source.parts(), self._source.size):
            inside = part.rows["time_ns"] >= scope.start_ns
            detections.update(camera for camera, one in zip(part.cameras, inside.tolist(), strict=True) if one)
        since = between("time_us", scope.start_ns // 1000, None)
        found = {
            camera: self._database.count(
                self._database.detections, self._database.where(since, equals("camera", camera))
            )
            for camera in detections
        }
        wrong = sorted(camera for camera in detections if detections[camera] != found[camera])
        if wrong:
            raise Incomplete(
                f"Qdrant has {sum(found.values()):,} detections of {detections.total():,}, others at {len(wrong)} "
                f"cameras ({', '.join(wrong[:5])}); --all sends everything again"
            )
        self._tell(f"{detections.total():,} detections at {len(detections)} cameras: as many as in files")
        self._check_appearances(scope.start_ns)
        self._check_searches(least, scope)

    def _sample(self, part: Part) -> None:
        for at, vector in enumerate(part.vectors):
            # Each face has nearly the same chance to be one of the samples.
            if len(self._samples) < SAMPLES:
                self._samples.append(vector)
            elif self._random.random() < SAMPLES / (SAMPLES + at + len(part.vectors)):
                self._samples[int(self._random.integers(SAMPLES))] = vector

    def _send(self, part: Part, *, everything: bool) -> int:
        store = self._database.store
        detections = raw_ids(part.rows["detection"])
        known = {} if everything else self._index.stored(detections)
        appearances = appearance_numbers(part.rows["appearance"]).tolist()
        faces = iter(part.vectors)
        points: list[models.PointStruct] = []
        for row, detection, number, appearance, camera in zip(
            part.rows, detections, part.numbers, appearances, part.cameras, strict=True
        ):
            vector = next(faces) if number >= 0 else None
            if detection not in known:
                points.append(point_of(store, max(number, 0), appearance, camera, row, vector))
        self._index.write(points)
        return len(points)

    def _send_appearances(self, appearances: list[Appearance]) -> int:
        """Written over by every run, as nobody else writes them; each track then names the last one that ended."""
        store, records = self._database.store, self._database.records
        for start in range(0, len(appearances), _BATCH):
            some = appearances[start : start + _BATCH]
            not_erased = models.Filter(must_not=[equals("kind", "erased")])
            self._database.put(records, [appearance_point(store, one, 0) for one in some], not_erased)
            tracks: dict[tuple[str, str], TrackState] = {}
            for one in some:
                key = one.camera, one.object_id
                state = tracks.setdefault(key, TrackState(key, _MIGRATED))
                state.settled_end_ns = max(state.settled_end_ns, one.end_ns)
            points = [track_point(store, one) for one in tracks.values()]
            for point in points:
                earlier = models.Filter(must=[between("end_us", None, (point.payload or {})["end_us"])])
                self._database.put(records, [point], earlier)
        return len(appearances)

    def _forget_erased(self) -> None:
        eraser = Eraser(self._database, self._reads, Tracks(self._database, 0))
        for erasure in self._source.erasures():
            eraser.take_over(erasure.receipt, erasure.detections)

    async def _copy_frames(self) -> int:
        store, records = self._database.store, self._database.records
        shows: dict[str, list[str]] = {}
        for some in self._source.appearances():
            for one in some:
                for frame in one.frames:
                    shows.setdefault(frame.id, []).append(uuid_of(one.id))
        frames = self._source.frames()
        known = self._database.get(records, [frame_point_id(store, one.id) for one in frames], ["kind"])
        sent, lost = 0, 0
        for frame in frames:
            if frame_point_id(store, frame.id) not in known:
                try:
                    await self._copy_image(frame)
                except DataLoss:
                    lost += 1
                    continue
                sent += 1
            self._database.put(records, [frame_point(store, frame, shows.get(frame.id, []))])
        if lost:
            self._tell(f"{lost:,} frames have no image any more, and are left out")
        return sent

    async def _copy_image(self, frame: Frame) -> None:
        """Raises DataLoss when there is none."""
        image = b"".join([part async for part in (self._kept or self._frames).parts(frame)])
        if self._kept is not None:
            await self._frames.save(frame, image)

    def _check_appearances(self, since_ns: int) -> None:
        store, wrong, total = self._database.store, 0, 0
        for some in self._source.appearances():
            wanted = {one.number: one for one in some if one.end_ns >= since_ns}
            found = self._reads.with_numbers(wanted)
            total += len(wanted)
            for number, one in wanted.items():
                there = found.get(number)
                wrong += there is None or (there.id, there.count, there.start_ns, there.end_ns, len(there.frames)) != (
                    one.id, one.count, one.start_ns, one.end_ns, len(one.frames)
                )  # fmt: skip
        if wrong:
            raise Incomplete(f"{wrong:,} of {total:,} appearances are not as in files ({store})")
        self._tell(f"{total:,} appearances: the same as in files")

    def _check_searches(self, least: float, scope: Scope) -> None:
        hits = missed = 0
        for vector in self._samples:
            probes = Probes(vector[None], vector[None])
            here, there = self._source.index.search(probes, least, scope), self._index.search(probes, least, scope)
            expected = dict(zip(here.appearances.tolist(), here.similarities.tolist(), strict=True))
            found = dict(zip(there.appearances.tolist(), there.similarities.tolist(), strict=True))
            # Rounding decides about those at the limit.
            sure = {number: one for number, one in expected.items() if one >= least + _EDGE}
            hits += len(sure)
            missed += sum(abs(found.get(number, -1.0) - one) > _EDGE for number, one in sure.items())
            if any(one > least + _EDGE for number, one in found.items() if number not in expected):
                raise Incomplete("a search finds an appearance that is not in files: is this another store's data?")
        if missed > hits * (1 - ENOUGH):
            raise Incomplete(
                f"{len(self._samples)} searches find {hits - missed:,} of {hits:,} appearances: wait until Qdrant has "
                "built its graph (status green) and try again, or set POI_HISTORY_QDRANT_EXACT"
            )
        self._tell(f"{len(self._samples)} searches: {hits - missed:,} of {hits:,} appearances, the same similarities")
