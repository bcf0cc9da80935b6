"""What fuzzing found in the requests of the alert service."""

from __future__ import annotations

import gc
import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, feedback_pb2, match_pb2

from alert_svc.alerts import new_alert
from alert_svc.export.archive import Archive
from alert_svc.feedback import reports
from mesh.errors import InvalidArgument
from tests.alert_svc.support import candidate

STORE, NOW = "stores/s1", Timestamp(seconds=1_800_000_000)


def test_no_number_of_a_candidate_is_kept_that_is_none() -> None:
    one = candidate(STORE)
    one.match.face_similarity = -math.inf
    one.face_box.CopyFrom(common_pb2.BoundingBox(x=1, y=2, width=math.nan, height=4))
    one.runners_up.append(match_pb2.Match(poi=f"{STORE}/pois/p2", similarity=0.5, false_match_rate=math.inf))

    with pytest.raises(InvalidArgument) as refusal:
        new_alert(one, "s1", NOW, "candidates[0]")

    assert sorted(field for field, _ in refusal.value.violations) == [
        "candidates[0].face_box.width",
        "candidates[0].match.face_similarity",
        "candidates[0].runners_up[0].false_match_rate",
    ]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_abandoned_archive_is_collected_without_a_word() -> None:
    archive = Archive(NOW)
    archive.add("alert.json", b"{}")
    archive.abandon()
    del archive

    gc.collect()


def test_no_number_of_a_report_is_kept_that_is_none() -> None:
    match = match_pb2.Match(
        similarity=0.5,
        threshold=math.nan,
        face_similarity=-math.inf,
        false_match_rate=math.inf,
        similarity_false_match_rate=-0.1,
    )
    report = feedback_pb2.ReportMatchRequest(
        parent=STORE, appearance=f"{STORE}/appearances/a1", poi=f"{STORE}/pois/p1", match=match
    )

    with pytest.raises(InvalidArgument) as refusal:
        reports.requested(report, "s1", NOW)

    assert [field for field, _ in refusal.value.violations] == [
        "match.threshold",
        "match.face_similarity",
        "match.false_match_rate",
        "match.similarity_false_match_rate",
    ]
