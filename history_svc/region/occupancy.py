"""How many people were in a zone over a time, for how long: computed from the visits to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from history_svc.region.model import Visit

_LEFT, _CAME, _STAYED = 0, 1, 2
"""Who leaves at the moment at which another comes is not counted with them; who was seen at one moment only, is."""


@dataclass(frozen=True, slots=True)
class ZoneOccupancy:
    """Of one zone over one time."""

    visits: int
    visitors: int
    """Different people."""
    peak: int
    """The most people at one moment."""
    dwell: int
    """Milliseconds of all visits together."""


NOBODY = ZoneOccupancy(0, 0, 0, 0)


@dataclass(slots=True)
class _Tally:
    visits: int = 0
    people: set[str] = field(default_factory=set)
    dwell: int = 0
    steps: list[tuple[int, int]] = field(default_factory=list)
    """(moment, _LEFT, _CAME or _STAYED)"""

    def occupancy(self) -> ZoneOccupancy:
        count = peak = 0
        for _, step in sorted(self.steps):
            count += 1 if step == _CAME else -1
            peak = max(peak, count)
        return ZoneOccupancy(self.visits, len(self.people), peak, self.dwell)


class Occupancies:
    """Adds up visits, given once each and in any order. Of each only what lies in the time counts."""

    def __init__(self, start: int, end: int) -> None:
        """The time from `start` to just before `end`, ms."""
        self._start = start
        self._end = end
        self._zones: dict[str, _Tally] = {}

    def add(self, visits: Iterable[Visit]) -> None:
        """Count these visits to zones of one scene. One that goes on lasts up to its last sight."""
        for visit in visits:
            last = visit.seen if visit.exit is None else visit.exit
            enter, leave = max(visit.enter, self._start), min(last, self._end)
            ended = visit.exit is not None and visit.exit == leave and visit.exit > visit.enter
            # Who left as the time began was not there in it.
            if enter >= self._end or leave < enter or (ended and leave == self._start):
                continue
            zone = self._zones.setdefault(visit.zone, _Tally())
            zone.visits += 1
            zone.people.add(visit.object_id)
            zone.dwell += leave - enter
            zone.steps += (enter, _CAME), (leave, _LEFT if ended else _STAYED)

    def zones(self) -> dict[str, ZoneOccupancy]:
        """By zone; without those that nobody visited."""
        return {zone: tally.occupancy() for zone, tally in self._zones.items()}
