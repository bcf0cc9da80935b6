"""What fuzzing found in what the eraser asks of services, and in what it is asked."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import approval_pb2, audit_pb2, common_pb2, erasure_pb2

from mesh import pages
from mesh.approvals.service import ApprovalServicer
from mesh.audit.service import AuditServicer
from mesh.erasure.service import ErasureServicer
from mesh.errors import InvalidArgument
from mesh.interceptors import ValidationInterceptor

STORE = "stores/s1"
NANOS = (-(2**31), -1, 10**9, 2**31 - 1)
TIMES = [
    *(Timestamp(seconds=seconds) for seconds in (-(2**63), -62_135_596_801, 253_402_300_800, 2**63 - 1)),
    *(Timestamp(seconds=1, nanos=nanos) for nanos in NANOS),
]


def wrong_fields(request: Any) -> list[str]:
    with pytest.raises(InvalidArgument) as refused:
        ValidationInterceptor().check(request)
    return [field for field, _ in refused.value.violations]


def span(**fields: Any) -> erasure_pb2.TrackSpan:
    good: dict[str, Any] = {
        "camera": f"{STORE}/cameras/c1",
        "object_id": "7",
        "start_time": Timestamp(seconds=1),
        "end_time": Timestamp(seconds=2, nanos=999_999_999),
    }
    return erasure_pb2.TrackSpan(**{**good, **fields})


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize("bound", ["start_time", "end_time"])
def test_a_person_seen_at_no_time_is_refused(bound: str, time: Timestamp) -> None:
    subject = erasure_pb2.TraceSubject(tracks=[span(), span(**{bound: time})])
    find = erasure_pb2.FindTracesRequest(parent=STORE, subject=subject)
    erase = erasure_pb2.EraseTracesRequest(parent=STORE, subject=subject, erasure=f"{STORE}/personErasures/e1")

    assert [wrong_fields(find), wrong_fields(erase)] == [[f"subject.tracks[1].{bound}"]] * 2


def test_a_person_is_known_by_names_of_resources() -> None:
    subject = erasure_pb2.TraceSubject(
        poi="x",
        appearances=[f"{STORE}/appearances/a1", "stores/s1/appearances/"],
        frames=["stores/s1/frames/f1", "\0"],
        tracks=[span(), span(camera="c1", object_id="")],
    )

    assert wrong_fields(erasure_pb2.EraseTracesRequest(parent=STORE, subject=subject, erasure="x")) == [
        "subject.poi",
        "subject.appearances[1]",
        "subject.frames[1]",
        "subject.tracks[1].camera",
        "subject.tracks[1].object_id",
        "erasure",
    ]


def test_all_that_is_known_of_a_person_passes() -> None:
    subject = erasure_pb2.TraceSubject(
        poi=f"{STORE}/pois/p1",
        references=[f"{STORE}/pois/p1/references/r1", "of an alert that says something else"],
        appearances=[f"{STORE}/appearances/{'0' * 32}"],
        frames=[f"{STORE}/frames/{'0' * 32}"] * 10_000,
        tracks=[span(object_id="é" * 256)] * 1000,
    )

    ValidationInterceptor().check(erasure_pb2.FindTracesRequest(parent=STORE, subject=subject))


@pytest.mark.parametrize("nanos", NANOS)
def test_times_with_more_nanoseconds_than_a_second_has_are_refused(nanos: int) -> None:
    interval = common_pb2.Interval(start_time=Timestamp(seconds=1), end_time=Timestamp(seconds=1, nanos=nanos))
    records = audit_pb2.ListAuditRecordsRequest(parent=STORE, filter=audit_pb2.AuditFilter(interval=interval))
    settings = approval_pb2.ApprovalSettings(valid_for=Duration(seconds=60, nanos=nanos))

    assert wrong_fields(records) == ["filter.interval.end_time"]
    assert wrong_fields(approval_pb2.UpdateApprovalSettingsRequest(approval_settings=settings)) == [
        "approval_settings.valid_for"
    ]


@pytest.mark.parametrize("before", ["x", None, [], True, "1"])
async def test_a_forged_page_token_of_records_approvals_and_erasures_is_refused(before: object) -> None:
    nothing: Any = None  # a token is refused before anything is read
    calls: list[tuple[Any, Any]] = [
        (AuditServicer(nothing, nothing).ListAuditRecords, audit_pb2.ListAuditRecordsRequest(parent=STORE)),
        (ApprovalServicer(nothing).ListApprovals, approval_pb2.ListApprovalsRequest(parent=STORE)),
        (
            ErasureServicer(nothing, nothing, nothing, nothing, nothing).ListPersonErasures,
            erasure_pb2.ListPersonErasuresRequest(parent=STORE),
        ),
    ]
    for call, request in calls:
        request.page_token = pages.encode({"before": before}, request)
        with pytest.raises(InvalidArgument) as refused:
            await call(request, None)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


async def test_no_audit_record_comes_before_the_first() -> None:
    nothing: Any = None
    request = audit_pb2.ListAuditRecordsRequest(parent=STORE)
    request.page_token = pages.encode({"before": -1}, request)

    with pytest.raises(InvalidArgument) as refused:
        await AuditServicer(nothing, nothing).ListAuditRecords(request, None)

    assert refused.value.reason == "INVALID_PAGE_TOKEN"
