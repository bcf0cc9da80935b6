"""Compares faces with the gallery: the hot path. Per detection there are a few look-ups; the rest is per batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from match_svc import metrics
from match_svc.decisions import Decisions
from match_svc.gallery import Sightings, Snapshot
from match_svc.index import Floats
from match_svc.people import DIMENSION, Match
from match_svc.tracks import Pooled, Pools, Track, unpooled, weights
from mesh import names
from mesh.embeddings import FACE_MODEL, decode_batch
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError

_INLINE_PAIRS = 65_536
"""Up to so many comparisons (0.5 ms) a search runs where it is: a thread costs 0.1 ms of CPU, and waits for the
interpreter. That is a full batch of a store with 1,000 persons: 10 % less CPU than with a thread."""
_LONGEST_ID = 256
_OTHER_PERSON = 0.3
"""A face that is less similar to a person is told to be nobody, whatever its track showed before. 0.3 % of strangers
are so similar (2 to 4 % get into the pool of whoever had their tracker id); of true faces 0.4 (aligned) to 2 % are
not, and the next one of the track is told."""

Problems = dict[int, MeshError]


class Batch(NamedTuple):
    """What faces were matched to, by their position: who matched somebody, and who could not be used."""

    matches: dict[int, list[Match]]
    problems: Problems


class Matcher:
    """Matches faces with a snapshot of the gallery. Large searches run in a bounded pool of threads."""

    def __init__(self, decisions: Decisions, pools: Pools | None, most: int, threads: int) -> None:
        """`most` persons at most are found for a detection. Without `pools` each face is matched alone."""
        self._decisions = decisions
        self._pools = pools
        self._most = most
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")

    async def faces(
        self, current: Callable[[], Snapshot], embeddings: Sequence[common_pb2.Embedding], most: int
    ) -> Batch:
        """Match faces of which nothing else is known; `most` persons each, the usual number when 0.

        `current` gives the gallery: who is no longer in it when the search ends is not answered.
        """
        gallery = current()
        probes, is_aligned, problems = _probes(embeddings, "embeddings[{}]")
        usable = [position for position in range(len(embeddings)) if position not in problems]
        found = await self._search(gallery, probes[usable], is_aligned[usable], most or self._most, time.time())
        return _batch(usable, _still(found, gallery, current(), None), problems)

    async def detections(self, current: Callable[[], Snapshot], detections: Sequence[common_pb2.Detection]) -> Batch:
        """Match detections of one store's cameras, by the pooled faces of their tracks. `current` as for `faces`.

        Calls pool in the order in which they begin, whatever they wait for afterwards.
        """
        gallery = current()
        probes, is_aligned, problems = _probes(
            [detection.embedding for detection in detections], "detections[{}].embedding"
        )
        usable: list[int] = []
        tracks: list[Track] = []
        seen: list[tuple[float, float, float]] = []
        for position, detection in enumerate(detections):
            camera, object_id = detection.camera, detection.object_id
            if (
                object_id
                and len(object_id) <= _LONGEST_ID
                and detection.detection_id
                and detection.HasField("detect_time")
                and _is_camera(camera, gallery.store)
            ):
                if position not in problems:
                    usable.append(position)
                    tracks.append(Track(camera, object_id))
                    moment = detection.detect_time
                    seconds = moment.seconds + moment.nanos / 1e9
                    seen.append((seconds, detection.face_box.width, detection.face_confidence))
            else:
                problems[position] = _incomplete(position, detection, gallery.store)
        if not gallery.size:
            return _batch(usable, [[] for _ in usable], problems)
        if len(usable) < len(detections):
            probes, is_aligned = probes[usable], is_aligned[usable]
            detections = [detections[position] for position in usable]
        pooled = self._pooled(tracks, seen, probes, is_aligned)
        found = await self._tracked(gallery, probes, is_aligned, tracks, pooled, detections)
        return _batch(usable, _still(found, gallery, current(), detections), problems)

    async def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pooled(
        self,
        tracks: Sequence[Track],
        seen: Sequence[tuple[float, float, float]],
        faces: Floats,
        is_aligned: NDArray[np.bool_],
    ) -> Pooled:
        """`seen` are the time of each face, its width in pixels and its confidence."""
        if self._pools is None or not seen:
            return unpooled(faces)
        times, widths, confidences = np.array(seen, np.float64).T
        pooled = self._pools.add(tracks, is_aligned, faces, times, weights(widths, confidences))
        metrics.RESTARTED.inc(int(np.count_nonzero(pooled.restarted)))
        metrics.POOLED_TRACKS.set(len(self._pools))
        return pooled

    async def _tracked(
        self,
        gallery: Snapshot,
        faces: Floats,
        is_aligned: NDArray[np.bool_],
        tracks: Sequence[Track],
        pooled: Pooled,
        seen: Sightings,
    ) -> list[list[Match]]:
        """The persons each track is known to be, where it still is; else whom the whole gallery says."""
        now = time.time()
        probes = pooled.faces
        known = await self._decisions.lookup(gallery, tracks)
        # What is known of a track is of the person that it was: the next one may be like them, and more like another.
        restarted = np.flatnonzero(pooled.restarted).tolist()
        for position in restarted:
            known[position] = ()
        asked = sum(1 for people in known if people)
        found = gallery.verify(probes, is_aligned, known, self._most, now, seen) if asked else [[] for _ in tracks]
        rest = [position for position, matches in enumerate(found) if not matches]
        hits = len(tracks) - len(rest)
        metrics.DECISION_HITS.inc(hits)
        metrics.DECISION_MISSES.inc(asked - hits)
        if rest:
            some = slice(None) if len(rest) == len(tracks) else rest
            where = seen if len(rest) == len(tracks) else [seen[position] for position in rest]
            searched = await self._search(gallery, probes[some], is_aligned[some], self._most, now, where)
            for position, matches in zip(rest, searched, strict=True):
                found[position] = matches
        answered = _answered(gallery, found, faces, is_aligned, pooled)
        if rest:
            new = {position for position in rest if answered[position] or known[position]}.union(restarted)
            self._decisions.decide(
                gallery,
                [(tracks[position], tuple(match.person for match in answered[position])) for position in sorted(new)],
            )
        return answered

    async def _search(
        self,
        gallery: Snapshot,
        probes: Floats,
        is_aligned: NDArray[np.bool_],
        most: int,
        now: float,
        seen: Sightings | None = None,
    ) -> list[list[Match]]:
        started = time.perf_counter()
        if len(probes) * gallery.rows <= _INLINE_PAIRS:
            found = gallery.search(probes, is_aligned, most, now, seen)
        else:
            found = await asyncio.get_running_loop().run_in_executor(
                self._pool, gallery.search, probes, is_aligned, most, now, seen
            )
        metrics.SEARCH_SECONDS.observe(time.perf_counter() - started)
        return found


def _probes(
    embeddings: Sequence[common_pb2.Embedding], field: str
) -> tuple[Floats, NDArray[np.bool_], dict[int, MeshError]]:
    """(n, d) vectors of norm 1, (n,) whether aligned, and what is wrong with some of them (whose vectors are zero)."""
    vectors, bad = decode_batch(embeddings, model=FACE_MODEL, dimension=DIMENSION)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    probes: Floats = vectors / np.maximum(norms, 0.5)[:, None]  # pipelines that round are up to 1 % off
    is_aligned = np.array([embedding.alignment == common_pb2.ALIGNMENT_ALIGNED for embedding in embeddings], np.bool_)
    return probes, is_aligned, {at: _unusable(embeddings[at], field.format(at), why) for at, why in bad.items()}


def _unusable(embedding: common_pb2.Embedding, field: str, why: str) -> MeshError:
    if not embedding.ByteSize():
        return InvalidArgument(violations=[(field, "is required")], reason="EMBEDDING_MISSING")
    if embedding.model != FACE_MODEL:
        return FailedPrecondition(
            f"{field}.model: {why}",
            reason="MODEL_MISMATCH",
            metadata={"field": f"{field}.model", "expected": FACE_MODEL, "actual": embedding.model},
        )
    return InvalidArgument(violations=[(f"{field}.vector", why)], reason="INVALID_EMBEDDING")


@lru_cache(maxsize=16_384)
def _is_camera(name: str, store: str) -> bool:
    """Whether it is the name of a camera of this store. Cameras are few and come again with every detection."""
    try:
        return names.parse_camera(name)[0] == store
    except InvalidArgument:
        return False


def _incomplete(position: int, detection: common_pb2.Detection, store: str) -> MeshError:
    field = f"detections[{position}]"
    violations = [
        (f"{field}.{name}", "is required") for name in ("detection_id", "object_id") if not getattr(detection, name)
    ]
    if len(detection.object_id) > _LONGEST_ID:
        violations.append((f"{field}.object_id", f"is longer than {_LONGEST_ID}"))
    if not detection.HasField("detect_time"):
        violations.append((f"{field}.detect_time", "is required"))
    if not _is_camera(detection.camera, store):
        violations.append((f"{field}.camera", f"must look like stores/{store}/cameras/{{camera}}"))
    return InvalidArgument(violations=violations, reason="INVALID_DETECTION")


def _answered(
    gallery: Snapshot, found: list[list[Match]], faces: Floats, is_aligned: NDArray[np.bool_], pooled: Pooled
) -> list[list[Match]]:
    """Those of the pooled faces' matches that are to be told: not of faces that stand alone and are not clear enough,
    and not of persons whom this very face contradicts."""
    counts, margins = pooled.counts.tolist(), pooled.margins.tolist()
    asked = [
        (position, match.person) for position, matches in enumerate(found) if counts[position] > 1 for match in matches
    ]
    alone = iter(gallery.likeness(faces, is_aligned, asked))
    answered = []
    for position, matches in enumerate(found):
        told = matches
        if matches and counts[position] == 1:
            told = [match for match in matches if match.similarity >= match.threshold + margins[position]]
            if len(told) < len(matches):
                metrics.WAITING.inc()
        elif matches:
            told = []
            for match in matches:
                similarity, _ = next(alone)
                if similarity >= _OTHER_PERSON:
                    told.append(match._replace(pooled_faces=counts[position], face_similarity=min(1.0, similarity)))
        answered.append(told)
    return answered


def _still(
    found: list[list[Match]], searched: Snapshot, current: Snapshot, seen: Sightings | None
) -> list[list[Match]]:
    """A large search takes long enough for a removal to be answered meanwhile."""
    if current is searched:
        return found
    return [
        current.still(matches, None if seen is None else seen[at]) if matches else matches
        for at, matches in enumerate(found)
    ]


def _batch(usable: Sequence[int], found: Sequence[list[Match]], problems: Problems) -> Batch:
    matches = {position: of_one for position, of_one in zip(usable, found, strict=True) if of_one}
    metrics.FACES.inc(len(usable))
    metrics.MATCHED.inc(len(matches))
    metrics.REFUSED.inc(len(problems))
    return Batch(matches, problems)
