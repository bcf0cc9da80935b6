"""What fuzzing found in the requests of the region service."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, region_pb2

from mesh.errors import InvalidArgument
from mesh.interceptors import ValidationInterceptor


@pytest.mark.parametrize("seconds", [-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1])
@pytest.mark.parametrize("bound", ["start_time", "end_time"])
def test_an_interval_beyond_the_years_1_to_9999_is_refused(bound: str, seconds: int) -> None:
    interval = common_pb2.Interval(**{bound: Timestamp(seconds=seconds)})
    request = region_pb2.GetOccupancyRequest(name="stores/s1/scenes/hall/occupancy", interval=interval)

    with pytest.raises(InvalidArgument) as refused:
        ValidationInterceptor().check(request)

    assert [field for field, _ in refused.value.violations] == [f"interval.{bound}"]
