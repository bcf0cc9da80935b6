"""A gallery of synthetic people, written into Redis as enrolment leaves it, and the faces that come by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import redis
from numpy.typing import NDArray
from poi.v1 import common_pb2, match_pb2, poi_pb2

from match_svc.registry import LOG, REVISION, REVISIONS, pois_key
from mesh.embeddings import DIMENSIONS, FACE_MODEL, encode

Vectors = NDArray[np.float32]

DIMENSION = DIMENSIONS[FACE_MODEL]
STORE = "store-1"
A_BATCH = 64
A_TRACK = 16
"""Faces of one person on the way past a camera."""
ENROLLED_SHARE = 0.1
"""Of the people coming by."""
_DECAY = 80.0
"""Makes strangers' cosines 0 +- 0.11, as the model's are on LFW (calibration: 2e-4 of them reach 0.40); directions that
are spread evenly would give 0.06 and make any index look good."""
_SAME = 0.7
_CHUNK = 2000
_CAMERAS = 16


def faces(count: int, seed: int) -> Vectors:
    """(count, DIMENSION) of strangers, L2-normalised."""
    spread = np.exp(-np.arange(DIMENSION, dtype=np.float32) / _DECAY)
    return _unit(np.random.default_rng(seed).standard_normal((count, DIMENSION), np.float32) * spread)


def again(people: Vectors, seed: int) -> Vectors:
    """Another face of each, with a cosine of about 0.7."""
    return _unit(_SAME * people + np.float32(np.sqrt(1 - _SAME**2)) * faces(len(people), seed))


def fill(redis_url: str, gallery: Vectors) -> None:
    """Make the registry hold this gallery and nothing else: one person a reference, as enrolment leaves it."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for start in range(0, len(gallery), _CHUNK):
            ids = [f"p{number}" for number in range(start, min(start + _CHUNK, len(gallery)))]
            records = {
                poi_id: b"%d:%s" % (number + 1, _record(poi_id, gallery[number]).SerializeToString())
                for number, poi_id in enumerate(ids, start)
            }
            with client.pipeline(transaction=False) as pipe:
                pipe.hset(pois_key(STORE), mapping=records)
                pipe.zadd(f"poi:{{gallery}}:order:{STORE}", {poi_id: at + 1 for at, poi_id in enumerate(ids, start)})
                pipe.execute()
        client.set(REVISION, len(gallery))
        client.hset(REVISIONS, STORE, len(gallery))
        client.xadd(LOG, {"r": len(gallery), "s": STORE, "p": ids[-1]})


def batches(gallery: Vectors, count: int) -> list[match_pb2.MatchDetectionsRequest]:
    """What ingest sends: whole tracks, most of strangers, mixed over the batches as cameras mix them."""
    tracks = count * A_BATCH // A_TRACK
    random = np.random.default_rng(3)
    people = faces(tracks, 4)
    enrolled = random.random(tracks) < ENROLLED_SHARE
    people[enrolled] = gallery[random.integers(0, len(gallery), int(enrolled.sum()))]
    seen = [again(people, 100 + at) for at in range(A_TRACK)]
    requests = []
    for number, found in enumerate(_mixed(tracks)):
        request = match_pb2.MatchDetectionsRequest(parent=f"stores/{STORE}", batch_id=number)
        for track, at in found:
            _detection(request.detections.add(), track, at, seen[at][track])
        requests.append(request)
    return requests


def embedding(face: Vectors) -> common_pb2.Embedding:
    """As a camera pipeline that aligns sends it."""
    return encode(face, model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED)


def _mixed(tracks: int) -> Iterator[list[tuple[int, int]]]:
    """(track, face of it) of each batch: A_BATCH tracks side by side, one face of each after the other."""
    for first in range(0, tracks, A_BATCH):
        for at in range(A_TRACK):
            yield [(track, at) for track in range(first, min(first + A_BATCH, tracks))]


def _detection(detection: common_pb2.Detection, track: int, at: int, face: Vectors) -> None:
    detection.detection_id = f"{track:016x}{at:016x}"
    detection.camera = f"stores/{STORE}/cameras/Camera_{track % _CAMERAS:02d}"
    detection.object_id = str(track)
    detection.detect_time.FromMilliseconds(1_790_000_000_000 + at * 100)
    detection.embedding.CopyFrom(embedding(face))


def _record(poi_id: str, face: Vectors) -> poi_pb2.Poi:
    name = f"stores/{STORE}/pois/{poi_id}"
    poi = poi_pb2.Poi(name=name, display_name=poi_id, severity=common_pb2.SEVERITY_MEDIUM)
    poi.create_time.seconds = poi.update_time.seconds = 1_790_000_000
    poi.references.add(name=f"{name}/references/{poi_id:0>16}", model=FACE_MODEL, embeddings=[embedding(face)])
    return poi


def _unit(vectors: Vectors) -> Vectors:
    normed: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed
