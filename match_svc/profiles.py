"""What is known of a person of interest beside their faces: checking it, changing it, showing it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, poi_pb2

from mesh.errors import InvalidArgument

CHANGEABLE = (
    "display_name",
    "severity",
    "notes",
    "threshold",
    "expire_time",
    "watchlists",
    "purpose",
    "legal_basis",
    "legal_reference",
)
REQUIRED = ("display_name", "purpose", "legal_basis", "enrolled_by")
"""Of a new person, beside an end."""
_LASTING = ("purpose", "legal_basis", "legal_reference", "expire_time")
"""What an update can change, and cannot take away."""

Retention: TypeAlias = Callable[[str, Sequence[str]], Awaitable[Duration | None]]
"""(store, names of watchlists) -> their shortest retention; None where none has any. Raises NotFound."""

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # what a Timestamp may hold: years 1 to 9999


def fill(poi: poi_pb2.Poi, wanted: poi_pb2.Poi, retention: Duration | None) -> None:
    """Make a new person of the profile that is `wanted`: created now, with an end.

    `retention` is the end of who has no expire time. Raises InvalidArgument that names every field that is missing.
    """
    missing = [name for name in REQUIRED if not _said(wanted, name)]
    problems = [(f"poi.{name}", "is required") for name in missing]
    if not wanted.HasField("expire_time"):
        if retention is None:
            problems.append(("poi.expire_time", "is required, as no watchlist of the person says how long to keep"))
    elif _checked(wanted.expire_time).ToNanoseconds() <= time.time_ns():
        problems.append(("poi.expire_time", "is in the past"))
    if problems:
        raise InvalidArgument(violations=problems)
    change(poi, wanted, CHANGEABLE)
    poi.enrolled_by = wanted.enrolled_by
    poi.create_time.GetCurrentTime()
    poi.update_time.CopyFrom(poi.create_time)
    if retention is not None and not poi.HasField("expire_time"):
        poi.expire_time.FromNanoseconds(poi.create_time.ToNanoseconds() + retention.ToNanoseconds())


def paths(mask: FieldMask, wanted: poi_pb2.Poi) -> tuple[str, ...]:
    """The fields to change: those of the mask, `*` being all, and without a mask those that are set (AIP-134).

    Raises InvalidArgument for a field that cannot be changed.
    """
    if not mask.paths:
        given = _given(wanted)
        return tuple(name for name in CHANGEABLE if name in given)
    if "*" in mask.paths:
        return CHANGEABLE
    wrong = [path for path in mask.paths if path not in CHANGEABLE]
    if wrong:
        allowed = ", ".join(CHANGEABLE)
        raise InvalidArgument(
            violations=[("update_mask", f"{path[:100]!r} cannot be changed; {allowed} can") for path in wrong],
            reason="INVALID_UPDATE_MASK",
        )
    return tuple(mask.paths)


def change(poi: poi_pb2.Poi, wanted: poi_pb2.Poi, fields: tuple[str, ...]) -> None:
    """Copy these fields, cleared ones too. Raises InvalidArgument.

    Persons who were enrolled before a purpose was asked for may go on without; nobody loses theirs, or their end.
    """
    given = _given(wanted)
    lost = [name for name in fields if name in _LASTING and not _said(wanted, name) and _said(poi, name)]
    if lost:
        raise InvalidArgument(violations=[(f"poi.{name}", "cannot be cleared") for name in lost])
    for name in fields:
        if name not in given:
            cast(Message, poi).ClearField(name)
        elif name == "watchlists":
            poi.watchlists[:] = wanted.watchlists
        elif name == "expire_time":
            poi.expire_time.CopyFrom(_checked(wanted.expire_time))
        else:
            setattr(poi, name, getattr(wanted, name))
    if not poi.display_name.strip():
        raise InvalidArgument(violations=[("poi.display_name", "is required")])
    if poi.severity == common_pb2.SEVERITY_UNSPECIFIED:
        poi.severity = common_pb2.SEVERITY_MEDIUM


def basic(poi: poi_pb2.Poi) -> poi_pb2.Poi:
    """The person in the BASIC view; takes the embeddings away in place."""
    for reference in poi.references:
        reference.ClearField("embeddings")
    return poi


def _said(poi: poi_pb2.Poi, name: str) -> bool:
    """Whether a field has a value, other than blanks."""
    value = getattr(poi, name)
    return bool(value.strip()) if isinstance(value, str) else name in _given(poi)


def _given(wanted: poi_pb2.Poi) -> set[str]:
    return {field.name for field, _ in wanted.ListFields()}


def _checked(time: Timestamp) -> Timestamp:
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND or not 0 <= time.nanos < 1_000_000_000:
        raise InvalidArgument(violations=[("poi.expire_time", "is not a time between the years 1 and 9999")])
    return time
