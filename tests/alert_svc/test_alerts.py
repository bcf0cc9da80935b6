"""The rules of alerts, without a server."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2

from alert_svc.alerts import AlertFilter, alert_id, new_alert
from alert_svc.triage import Action
from mesh.errors import FailedPrecondition, InvalidArgument
from tests.alert_svc.support import candidate

STORE = "stores/s1"
NOW, LATER = Timestamp(seconds=1_800_000_000), Timestamp(seconds=1_800_000_007)


def an_alert() -> alert_pb2.Alert:
    return new_alert(candidate(STORE), "s1", NOW, "candidates[0]")


def test_the_id_of_an_alert_depends_on_person_and_appearance_only() -> None:
    ids = {alert_id(poi, appearance) for poi in ("p", "pa", "q") for appearance in ("a", "aa", "b")}
    assert len(ids) == 9
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in ids)
    # What is in Redis was made with it: it may not change.
    assert alert_id("stores/s1/pois/p1", "stores/s1/appearances/a1") == "91906db72862a698b89e5be757e57d78"


def test_every_wrong_part_of_a_candidate_is_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        new_alert(alert_pb2.AlertCandidate(), "s1", NOW, "candidates[7]")
    assert [field for field, _ in refusal.value.violations] == [
        "candidates[7].match.poi",
        "candidates[7].appearance",
        "candidates[7].camera",
        "candidates[7].detect_time",
    ]


def test_an_alert_may_be_resolved_without_being_acknowledged() -> None:
    resolved = Action(alert_pb2.ALERT_STATE_RESOLVED, "ann", "", "").apply(an_alert(), LATER)
    assert resolved is not None
    assert resolved.update_time == resolved.resolution.action_time == LATER
    assert resolved.create_time == NOW
    assert not resolved.HasField("acknowledgement")


def test_an_action_leaves_the_alert_it_was_given_alone() -> None:
    alert, same = an_alert(), alert_pb2.Alert()
    same.CopyFrom(alert)
    Action(alert_pb2.ALERT_STATE_ACKNOWLEDGED, "ann", "n", alert.etag).apply(alert, LATER)
    assert alert == same


def test_a_resolved_alert_says_so_even_to_who_brings_an_old_etag() -> None:
    resolved = Action(alert_pb2.ALERT_STATE_RESOLVED, "ann", "", "").apply(an_alert(), LATER)
    assert resolved is not None
    with pytest.raises(FailedPrecondition):
        Action(alert_pb2.ALERT_STATE_ACKNOWLEDGED, "bob", "", "old").apply(resolved, LATER)


@pytest.mark.parametrize(
    ("severity", "least", "passes"),
    [
        (common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_MEDIUM, False),
        (common_pb2.SEVERITY_MEDIUM, common_pb2.SEVERITY_MEDIUM, True),
        (common_pb2.SEVERITY_UNSPECIFIED, common_pb2.SEVERITY_MEDIUM, True),  # not said is MEDIUM, never lost
        (common_pb2.SEVERITY_UNSPECIFIED, common_pb2.SEVERITY_HIGH, False),
        (common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_UNSPECIFIED, True),
    ],
)
def test_severities(
    severity: common_pb2.Severity.ValueType, least: common_pb2.Severity.ValueType, passes: bool
) -> None:
    alert = new_alert(candidate(STORE, severity=severity), "s1", NOW, "")
    assert AlertFilter(min_severity=least)(alert) is passes
