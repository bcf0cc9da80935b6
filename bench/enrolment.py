"""Persons of a benchmark, with all that enrolment asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, poi_pb2


def synthetic_poi(display_name: str) -> poi_pb2.Poi:
    """Nobody real; forgotten after a day."""
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    return poi_pb2.Poi(
        display_name=display_name,
        severity=common_pb2.SEVERITY_MEDIUM,
        purpose="benchmark with synthetic vectors",
        legal_basis=poi_pb2.LEGAL_BASIS_CONSENT,
        enrolled_by="bench",
        expire_time=end,
    )
