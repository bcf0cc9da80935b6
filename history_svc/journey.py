"""A person's way through the store: stays in front of cameras and in zones, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from poi.v1 import history_pb2

from history_svc.search import Hit
from history_svc.translate import timestamp
from history_svc.visits import Found
from mesh import names

MAX_APPEARANCES: Final = 1000
"""A journey is made of so many, the most similar: it goes out in one message."""
_MAX_EVIDENCE: Final = 10
"""Appearances that a step names, and people."""


@dataclass(slots=True)
class _Step:
    place: str
    start_ns: int
    end_ns: int
    appearances: list[tuple[float, str]]
    """(-similarity, name)."""
    objects: set[str]

    def take_in(self, other: _Step) -> None:
        self.end_ns = max(self.end_ns, other.end_ns)
        self.appearances = sorted({*self.appearances, *other.appearances})[:_MAX_EVIDENCE]
        self.objects |= other.objects


def steps(store: str, hits: Sequence[Hit], found: Found, gap_ns: int) -> list[history_pb2.JourneyStep]:
    """The steps of at most MAX_APPEARANCES hits (most similar first), with the visits of all their cameras and time."""
    on_cameras: list[_Step] = []
    in_zones: dict[str, _Step] = {}
    for hit in hits:
        one = hit.appearance
        camera = names.camera(store, one.camera)
        evidence = (-hit.similarity, names.appearance(store, one.id.hex()))
        on_cameras.append(_Step(camera, one.start_ns, one.end_ns, [evidence], set()))
        for stay in found.during(camera, one.start_ns, one.end_ns, one.object_id):
            visit = stay.visit
            step = in_zones.setdefault(visit.name, _Step(visit.zone, stay.start_ns, stay.end_ns, [], {visit.object_id}))
            if len(step.appearances) < _MAX_EVIDENCE:
                step.appearances.append(evidence)
    made = [(step, "camera") for step in _joined(on_cameras, gap_ns)]
    made += [(step, "zone") for step in _joined(in_zones.values(), gap_ns)]
    made.sort(key=lambda item: (item[0].start_ns, item[0].end_ns, item[0].place))
    return [_message(step, kind) for step, kind in made]


def _joined(stays: Iterable[_Step], gap_ns: int) -> list[_Step]:
    """Stays of one kind; those at one place are united that overlap, or that no more than a short gap divides."""
    joined: list[_Step] = []
    latest: dict[str, _Step] = {}
    for stay in sorted(stays, key=lambda one: (one.start_ns, one.place)):
        before = latest.get(stay.place)
        reach = gap_ns if joined and joined[-1] is before else 0
        if before is not None and stay.start_ns <= before.end_ns + reach:
            before.take_in(stay)
        else:
            joined.append(stay)
            latest[stay.place] = stay
    return joined


def _message(step: _Step, kind: str) -> history_pb2.JourneyStep:
    message = history_pb2.JourneyStep(
        start_time=timestamp(step.start_ns),
        end_time=timestamp(step.end_ns),
        similarity=-step.appearances[0][0],
        appearances=[name for _, name in step.appearances],
        object_ids=sorted(step.objects)[:_MAX_EVIDENCE],
    )
    setattr(message, kind, step.place)
    return message
