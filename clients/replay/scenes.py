"""A synthetic scene: people who walk from zone to zone, in the shape of SceneScape's regulated scene updates."""

import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import orjson

from clients.replay.traffic import Message, iso

SCENE_ID = "5f1d2c3b-8a47-4c0e-9b55-1e6f0a7d4c21"
ZONES = ("entrance", "aisle-3", "aisle-5", "checkout")


class Stay(NamedTuple):
    """A person's stay in a zone, in milliseconds after the start; both ends fall on an update."""

    object_id: str
    zone: str
    enter_ms: int
    exit_ms: int


class SceneTraffic:
    """Updates of one scene in which people come in one after another, walk through every zone and leave.

    Args:
        people: how many in all; each begins half a walk after the one before, so about two are in at a time.
        rate: updates a second; 1000 must be a multiple of it.
        stay_updates: shortest and longest stay in a zone, in updates.
        seed: same seed, same walks.
    """

    def __init__(
        self,
        *,
        scene_id: str = SCENE_ID,
        zones: Sequence[str] = ZONES,
        people: int = 4,
        rate: int = 2,
        stay_updates: tuple[int, int] = (4, 12),
        seed: int = 0,
    ) -> None:
        if 1000 % rate:
            raise ValueError(f"rate must divide 1000, not {rate}")
        self._scene_id = scene_id
        self._rate = rate
        self._period_ms = 1000 // rate
        rng = np.random.default_rng((seed, 3))
        self.stays: list[Stay] = []
        """What a region service has to find: every stay, of one person after another."""
        begin = 0
        for _ in range(people):
            person = str(uuid.UUID(bytes=rng.bytes(16), version=4))
            at = begin
            for zone in zones:
                until = at + int(rng.integers(*stay_updates, endpoint=True))
                self.stays.append(Stay(person, zone, at * self._period_ms, until * self._period_ms))
                at = until
            begin = (begin + at) // 2

    @property
    def duration_ms(self) -> float:
        return float(max((stay.exit_ms for stay in self.stays), default=0))

    def messages(self, start_ms: int) -> Iterator[Message]:
        first_seen: dict[str, int] = {}
        for stay in self.stays:
            first_seen.setdefault(stay.object_id, stay.enter_ms)
        for at in range(0, round(self.duration_ms) + 1, self._period_ms):
            present = [stay for stay in self.stays if stay.enter_ms <= at < stay.exit_ms]
            payload = {
                "id": self._scene_id,
                "name": "store",
                "timestamp": iso(start_ms + at),
                "rate": float(self._rate),
                "objects": [_object(stay, start_ms, first_seen[stay.object_id], at) for stay in present],
            }
            topic = f"scenescape/regulated/scene/{self._scene_id}"
            yield Message(float(at), topic, orjson.dumps(payload), "", start_ms + at)


def _object(stay: Stay, start_ms: int, first_seen_ms: int, at_ms: int) -> dict[str, object]:
    return {
        "id": stay.object_id,
        "category": "person",
        "type": "person",
        "confidence": 0.97,
        "translation": [round((at_ms - first_seen_ms) / 4000, 2), 2.5, 0.0],
        "velocity": [0.25, 0, 0],
        "visibility": ["Camera_01"],
        "first_seen": iso(start_ms + first_seen_ms),
        "regions": {stay.zone: {"entered": iso(start_ms + stay.enter_ms)}},
    }
