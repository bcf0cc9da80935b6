"""When a watchlist applies: spans of hours on days of the week, by the clock on the wall of a time zone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from google.type.timeofday_pb2 import TimeOfDay
from poi.v1 import watchlist_pb2

_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Span:
    """From a minute of the day on, to one of the same or, where that is not later, of the next day."""

    days: frozenset[int]
    """On which it starts; 0 is Monday."""
    start: int
    end: int

    def covers(self, day: int, minute: int) -> bool:
        """Whether this minute of this day of the week is in it."""
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True, eq=False)
class Hours:
    """Immutable; hashed by identity."""

    spans: tuple[Span, ...]
    zone: ZoneInfo

    def at(self, seconds: int) -> bool:
        """Whether they cover a moment, in seconds since the epoch.

        The clock on the wall decides: an hour that it shows twice, in autumn, is covered twice. A moment outside the
        years 1 to 9999 is not covered.
        """
        return _covered(self, seconds // 60)


@lru_cache(maxsize=4096)
def _covered(hours: Hours, minute: int) -> bool:
    # One conversion takes a microsecond or two, and the detections of all cameras come in the same minute.
    try:
        wall = datetime.fromtimestamp(minute * 60, hours.zone)
    except (ValueError, OverflowError, OSError):
        return False
    day, of_day = wall.weekday(), wall.hour * 60 + wall.minute
    return any(span.covers(day, of_day) for span in hours.spans)


def parse(weekly: Iterable[watchlist_pb2.WeeklyHours], time_zone: str) -> Hours | None:
    """None where there are no hours. Raises ValueError for a zone or a time of day that is none."""
    try:
        zone = ZoneInfo(time_zone or "UTC")
    except (ValueError, KeyError, OSError):
        raise ValueError(f"{time_zone[:100]!r} is not a time zone such as Europe/Berlin") from None
    spans = tuple(
        Span(
            frozenset(day - 1 for day in each.days) or frozenset(range(7)),
            _minute(each.start, last=_DAY - 1),
            _minute(each.end, last=_DAY),
        )
        for each in weekly
    )
    return Hours(spans, zone) if spans else None


def _minute(time: TimeOfDay, last: int) -> int:
    minute: int = time.hours * 60 + time.minutes
    if not (0 <= time.minutes < 60 and 0 <= time.seconds <= 60 and 0 <= time.nanos < 1_000_000_000):
        raise ValueError("is not a time of day")
    if not 0 <= minute <= last:
        raise ValueError(f"is not a time of day from 00:00 to {last // 60:02}:{last % 60:02}")
    return minute
