"""Updates of a scene, and the visits they make. Times are integer milliseconds since the epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class SeenObject:
    """A person in an update: the zones they are in, with the entry that the controller claims, and who saw them.

    `cameras` are camera ids; `tracks` say who the person is to cameras, as `cam:{camera}:{object}`.
    """

    object_id: str
    zones: dict[str, int | None]
    cameras: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """Who is where in a scene at `time`: in all of it, or in one `zone` of it.

    Of one zone, it tells of nobody but `objects`: those who have the zone among theirs are in it, the others left it.
    """

    time: int
    objects: tuple[SeenObject, ...]
    zone: str | None = None


@dataclass(slots=True)
class Visit:
    """One person's stay in one zone.

    `exit` is None while it goes on. `seen` is the last sight of the person in the zone. `cameras` and `tracks` are
    in the order in which they first saw it.
    """

    scene: str
    zone: str
    object_id: str
    enter: int
    seen: int
    exit: int | None = None
    cameras: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()
    id: str = field(default="")

    def __post_init__(self) -> None:
        self.id = self.id or visit_id(self.scene, self.zone, self.object_id, self.enter)

    @property
    def dwell(self) -> int:
        """Milliseconds from entry to exit, or to the last sight while it goes on."""
        return (self.seen if self.exit is None else self.exit) - self.enter


class Event(Enum):
    """What happened to a visit."""

    ENTERED = "entered"
    EXITED = "exited"


def visit_id(scene: str, zone: str, object_id: str, enter: int) -> str:
    """32 hex digits that depend on nothing else: a repeat after a crash makes the same visit."""
    content = "\0".join((scene, zone, object_id, str(enter)))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def encode(visit: Visit) -> bytes:
    """The visit as it is kept in Redis, where its id is the key."""
    return orjson.dumps(
        {
            "scene": visit.scene,
            "zone": visit.zone,
            "object": visit.object_id,
            "enter": visit.enter,
            "seen": visit.seen,
            "exit": visit.exit,
            "cameras": visit.cameras,
            "tracks": visit.tracks,
        }
    )


def decode(visit_id: str, record: bytes) -> Visit:
    """The inverse of `encode`."""
    content: dict[str, Any] = orjson.loads(record)
    return Visit(
        scene=content["scene"],
        zone=content["zone"],
        object_id=content["object"],
        enter=content["enter"],
        seen=content["seen"],
        exit=content["exit"],
        cameras=tuple(content["cameras"]),
        tracks=tuple(content.get("tracks", ())),
        id=visit_id,
    )
