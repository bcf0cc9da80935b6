"""Persons to enrol, with all that the contract requires of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import poi_pb2


def in_days(days: float) -> Timestamp:
    """A moment so many days from now."""
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return moment


def valid_poi(display_name: str = "Somebody", **fields: Any) -> poi_pb2.Poi:
    """A person whom nobody would refuse, but for what a test says; a field that is None is left out."""
    given: dict[str, Any] = {
        "display_name": display_name,
        "purpose": "theft on 3 November",
        "legal_basis": poi_pb2.LEGAL_BASIS_LEGITIMATE_INTERESTS,
        "enrolled_by": "ann",
        "expire_time": in_days(90),
        **fields,
    }
    return poi_pb2.Poi(**{name: value for name, value in given.items() if value is not None})
