"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, poi_pb2

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_AHEAD: Final = re.compile(r"(\d+)d")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


SERVICES: Final = {
    "embed": "127.0.0.1:7001",
    "match": "127.0.0.1:7002",
    "history": "127.0.0.1:7003",
    "region": "127.0.0.1:7004",
    "alert": "127.0.0.1:7005",
    "ingest": "127.0.0.1:7006",
}
"""The servers of every store, and where each listens by default."""
AUDIT: Final = "127.0.0.1:7008"
"""Where the audit server listens by default, where there is one."""


class Severity(StrEnum):
    """As in the contract, for people to type."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"

    @property
    def number(self) -> common_pb2.Severity.ValueType:
        """The contract's value."""
        return common_pb2.Severity.Value(f"SEVERITY_{self.value}")


class LegalBasis(StrEnum):
    """As in the contract, for people to type."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal-obligation"
    VITAL_INTERESTS = "vital-interests"
    PUBLIC_TASK = "public-task"
    LEGITIMATE_INTERESTS = "legitimate-interests"

    @property
    def number(self) -> poi_pb2.LegalBasis.ValueType:
        """The contract's value."""
        return poi_pb2.LegalBasis.Value(f"LEGAL_BASIS_{self.name}")


def an_end(text: str) -> datetime:
    """An aware moment to come: `90d` from now (to the end of that day, UTC), or ISO 8601. Raises BadParameter.

    Whole days make a command that is repeated on the same day say the same thing.
    """
    ahead = _AHEAD.fullmatch(text)
    try:
        if ahead:
            day = (datetime.now(UTC) + timedelta(days=int(ahead[1]))).date()
            return datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither like 90d nor an ISO 8601 time") from None


def os_user() -> str:
    """Who runs this command, as the system says; empty where it does not."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def a_time(text: str) -> datetime:
    """An aware moment: `90m` or `7d` ago, or ISO 8601, in local time unless it says. Raises BadParameter."""
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither like 30s, 90m, 12h or 7d nor an ISO 8601 time") from None


def timestamp(moment: datetime) -> Timestamp:
    """The contract's form of a moment."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def interval(since: datetime | None, until: datetime | None) -> common_pb2.Interval:
    """The contract's form of a span, open where nothing was said."""
    made = common_pb2.Interval()
    if since:
        made.start_time.CopyFrom(timestamp(since))
    if until:
        made.end_time.CopyFrom(timestamp(until))
    return made


def changes(wanted: Message, clear: Iterable[StrEnum]) -> FieldMask:
    """Which fields to change: those that are set, and those to say nothing of any more. Raises BadParameter."""
    paths = [field.name for field, _ in wanted.ListFields()]
    cleared = [field.value.replace("-", "_") for field in clear]
    if both := sorted(set(paths).intersection(cleared)):
        raise typer.BadParameter(f"both set and cleared: {', '.join(both)}")
    if not paths and not cleared:
        raise typer.BadParameter("nothing to change was said")
    return FieldMask(paths=paths + cleared)


Json = Annotated[bool, typer.Option("--json", help="Print JSON (of the contract's message).")]
Since = Annotated[
    datetime | None, typer.Option(parser=a_time, metavar="TIME", help="From then on: 30s, 90m, 12h, 7d, or ISO 8601.")
]
Until = Annotated[datetime | None, typer.Option(parser=a_time, metavar="TIME", help="Before that: as --since.")]
Cameras = Annotated[list[str] | None, typer.Option("--camera", metavar="CAMERA", help="Only this camera (repeat).")]
Pois = Annotated[list[str] | None, typer.Option("--poi", metavar="POI", help="Only this person (repeat).")]
Watchlists = Annotated[
    list[str] | None, typer.Option("--watchlist", metavar="LIST", help="Only of this watchlist (repeat).")
]
MinSeverity = Annotated[Severity | None, typer.Option(case_sensitive=False, help="At least so severe.")]
Etag = Annotated[str, typer.Option(help="Only if it still has this etag.")]
Purpose = Annotated[str, typer.Option(help="What the person is enrolled for.")]
Basis = Annotated[LegalBasis | None, typer.Option("--legal-basis", case_sensitive=False, help="Why the law allows it.")]
LegalReference = Annotated[str, typer.Option(help="The decision, order or case that says so.")]
EnrolledBy = Annotated[str, typer.Option(help="Who enrols; the user of this system where it is not said.")]
Expire = Annotated[
    datetime | None,
    typer.Option("--expire", "--expires", parser=an_end, metavar="TIME", help="When to forget: 90d, or ISO 8601."),
]
OnLists = Annotated[list[str] | None, typer.Option("--watchlist", metavar="LIST", help="Put on it (repeat).")]
AllowDuplicate = Annotated[bool, typer.Option(help="Although somebody who looks alike is enrolled: a twin.")]
AllowDisagreement = Annotated[bool, typer.Option(help="Although the faces disagree: years lie between the photos.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")]
