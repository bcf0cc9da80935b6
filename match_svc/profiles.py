"""What is known of a person of interest beside their faces: checking it, changing it, showing it."""

from __future__ import annotations

from typing import cast

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, poi_pb2

from mesh.errors import InvalidArgument

CHANGEABLE = ("display_name", "severity", "notes", "threshold", "expire_time", "watchlists")

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # what a Timestamp may hold: years 1 to 9999


def fill(poi: poi_pb2.Poi, wanted: poi_pb2.Poi) -> None:
    """Give a new person the profile that is `wanted`. Raises InvalidArgument."""
    change(poi, wanted, CHANGEABLE)


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
    """Copy these fields, cleared ones too. Raises InvalidArgument."""
    given = _given(wanted)
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


def _given(wanted: poi_pb2.Poi) -> set[str]:
    return {field.name for field, _ in wanted.ListFields()}


def _checked(time: Timestamp) -> Timestamp:
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND or not 0 <= time.nanos < 1_000_000_000:
        raise InvalidArgument(violations=[("poi.expire_time", "is not a time between the years 1 and 9999")])
    return time
