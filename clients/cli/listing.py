"""How people write and read the parts of a watchlist: hours, durations, overrides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import typer
from google.protobuf.duration_pb2 import Duration
from google.type.timeofday_pb2 import TimeOfDay
from poi.v1 import watchlist_pb2

from clients.cli.options import Severity

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")
_DURATION: Final = re.compile(r"(\d+)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def some_hours(text: str) -> watchlist_pb2.WeeklyHours:
    """`22:00-06:00`, `mon-fri,sun 22:00-06:00`. Raises BadParameter."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not like '22:00-06:00' or 'mon-fri,sun 22:00-06:00'")
    start, end = (TimeOfDay(hours=int(found[at]), minutes=int(found[at + 1])) for at in (2, 4))
    return watchlist_pb2.WeeklyHours(days=_days(found["days"] or "", text), start=start, end=end)


def a_duration(text: str) -> Duration:
    """`90s`, `30m`, `12h`, `7d`. Raises BadParameter."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not like 12h or 30d")
    made = Duration()
    made.FromTimedelta(timedelta(**{_UNITS[found[2]]: int(found[1])}))
    return made


def an_override(text: str, camera: Callable[[str], str]) -> watchlist_pb2.CameraGroupOverride:
    """`till-1,till-2 cosine=0.5 severity=high` (or `rate=1e-5`); `camera` makes a name. Raises BadParameter."""
    cameras, *settings = text.split() or [""]
    made = watchlist_pb2.CameraGroupOverride(cameras=[camera(one) for one in cameras.split(",") if one])
    try:
        for setting in settings:
            key, _, value = setting.partition("=")
            if key == "cosine":
                made.threshold.cosine = float(value)
            elif key == "rate":
                made.threshold.false_match_rate = float(value)
            elif key == "severity":
                made.severity = Severity(value.upper()).number
            else:
                raise ValueError(key)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 'till-1,till-2 cosine=0.5 severity=high'") from None
    return made


def span(hours: watchlist_pb2.WeeklyHours) -> str:
    """As `some_hours` reads it."""
    return f"{days(hours.days)} {_clock(hours.start)}-{_clock(hours.end)}".strip()


def days(chosen: Sequence[int]) -> str:
    """`mon,tue`; "" for every day."""
    return ",".join(_DAYS[day - 1] for day in sorted(chosen))


def duration(value: Duration) -> str:
    """In the largest unit that it is a whole number of."""
    seconds = value.seconds
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _days(text: str, whole: str) -> list[int]:
    chosen: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise typer.BadParameter(f"{whole!r}: days are {', '.join(_DAYS)}")
        start, stop = _DAYS.index(first), _DAYS.index(last or first)
        chosen += [(start + step) % 7 + 1 for step in range((stop - start) % 7 + 1)]
    return sorted(set(chosen))


def _clock(time: TimeOfDay) -> str:
    return f"{time.hours:02}:{time.minutes:02}"
