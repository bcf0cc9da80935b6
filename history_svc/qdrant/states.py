"""Appearances, tracks and frames as payloads of points, and back.

What is filtered by are fields of their own; the whole is one text, `state`, in which nothing is rounded.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from qdrant_client import models

from history_svc.appearances import Appearance
from history_svc.qdrant.database import Payload, point_id
from history_svc.records import Frame, Track, appearance_number

NEVER: Final = 1 << 52
"""A revision that none reaches."""


@dataclass(slots=True)
class TrackState:
    """What may still change of an object id on a camera."""

    track: Track
    version: str = ""
    """Another one with each write."""
    revision: int = 0
    """A higher one with each write: microseconds since 1970, or one more than the one before."""
    settled_end_ns: int = -(1 << 62)
    """Appearances that are no longer here ended at this time at the latest."""
    appearances: dict[bytes, Appearance] = field(default_factory=dict)
    pending: dict[bytes, bytes] = field(default_factory=dict)
    """The appearance of each detection that the last writers were about to write: counted, and perhaps not there."""


def track_point_id(store: str, track: Track) -> str:
    """The id of a track's point."""
    return point_id("track", store, *track)


def appearance_point_id(store: str, number: int) -> str:
    """The id of the point of the appearance with this number."""
    return point_id("appearance", store, number.to_bytes(8, "little"))


def frame_point_id(store: str, frame_id: str) -> str:
    """The id of a frame's point."""
    return point_id("frame", store, frame_id)


def uuid_of(raw: bytes) -> str:
    """16 bytes as Qdrant writes them."""
    return str(uuid.UUID(bytes=raw))


def track_point(store: str, track: TrackState) -> models.PointStruct:
    """A track as a point."""
    state = [
        *track.track,
        track.settled_end_ns,
        [pack_appearance(one) for one in track.appearances.values()],
        {key.hex(): one.hex() for key, one in track.pending.items()},
    ]
    ends = [one.end_ns for one in track.appearances.values()]
    payload = {
        "store": store,
        "kind": "track",
        "version": track.version,
        "revision": track.revision,
        "end_us": _microseconds(max([*ends, track.settled_end_ns, 0])),
        "state": orjson.dumps(state).decode(),
    }
    return models.PointStruct(id=track_point_id(store, track.track), vector={}, payload=payload)


def read_track(payload: Payload) -> TrackState:
    """The inverse."""
    camera, object_id, settled_end_ns, appearances, pending = orjson.loads(payload["state"])
    unpacked = [unpack_appearance(one) for one in appearances]
    return TrackState(
        (camera, object_id),
        payload["version"],
        payload["revision"],
        settled_end_ns,
        {one.id: one for one in unpacked},
        {bytes.fromhex(key): bytes.fromhex(one) for key, one in pending.items()},
    )


def appearance_point(store: str, one: Appearance, revision: int) -> models.PointStruct:
    """An appearance as a point. `revision` is its track's."""
    payload = {
        "store": store,
        "kind": "appearance",
        "revision": revision,
        "camera": one.camera,
        "track": track_point_id(store, (one.camera, one.object_id)),
        "start_us": _microseconds(one.start_ns),
        "end_us": _microseconds(one.end_ns),
        "frames": [frame.id for frame in one.frames],
        "state": orjson.dumps(pack_appearance(one)).decode(),
    }
    return models.PointStruct(id=appearance_point_id(store, appearance_number(one.id)), vector={}, payload=payload)


def erased_point(store: str, one: Appearance) -> models.PointStruct:
    """What stays in an appearance's place until it would be too old: no write is newer."""
    payload = {"store": store, "kind": "erased", "revision": NEVER, "end_us": _microseconds(one.end_ns)}
    return models.PointStruct(id=appearance_point_id(store, appearance_number(one.id)), vector={}, payload=payload)


def read_appearance(payload: Payload) -> Appearance:
    """The inverse of `appearance_point`."""
    return unpack_appearance(orjson.loads(payload["state"]))


def frame_point(store: str, frame: Frame, shows: list[str]) -> models.PointStruct:
    """A frame as a point, with the appearances (`uuid_of`) that it was said to show."""
    payload = {
        "store": store,
        "kind": "frame",
        "end_us": _microseconds(frame.time_ns),
        "shows": shows,
        "state": orjson.dumps(_pack_frame(frame)).decode(),
    }
    return models.PointStruct(id=frame_point_id(store, frame.id), vector={}, payload=payload)


def read_frame(payload: Payload) -> Frame:
    """The inverse."""
    return Frame(*orjson.loads(payload["state"]))


def _microseconds(time_ns: int) -> int:
    return time_ns // 1000


def pack_appearance(one: Appearance, *, face: bool = True) -> list[Any]:
    """An appearance as JSON, if wanted without its mean face."""
    moments = (one.entry, one.exit, one.best)
    summed = None if one.face_sum is None or not face else _text(one.face_sum.astype("<f4").tobytes())
    return [
        one.id.hex(), one.camera, one.object_id, one.start_ns, one.end_ns, *map(_text, moments), one.best_score,
        one.count, one.face_count, summed, one.face_square, [_pack_frame(frame) for frame in one.frames],
    ]  # fmt: skip


def unpack_appearance(state: list[Any]) -> Appearance:
    """The inverse."""
    (key, camera, object_id, start_ns, end_ns, entry, last, best, score, count, faces, summed, square, frames) = state
    appearance_id = bytes.fromhex(key)
    return Appearance(
        appearance_id,
        camera,
        object_id,
        start_ns,
        end_ns,
        base64.b64decode(entry),
        base64.b64decode(last),
        base64.b64decode(best),
        score,
        count,
        faces,
        None if summed is None else np.frombuffer(base64.b64decode(summed), "<f4").astype(np.float32),
        square,
        tuple(Frame(*frame) for frame in frames),
        appearance_number(appearance_id),
    )


def _pack_frame(frame: Frame) -> list[Any]:
    return [frame.id, frame.camera, frame.time_ns, frame.kind, frame.size]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
