"""The hand-over of a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2

from alert_svc.alerts import new_alert
from alert_svc.summary import Shift
from alert_svc.triage import ACKNOWLEDGED, CONFIRMED, FALSE_MATCH, NEW, RESOLVED, Action, State
from mesh.errors import InvalidArgument
from tests.alert_svc.support import candidate, fails, raise_alerts, raise_numbers

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

STORE = "stores/s1"
LOW, MEDIUM, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_MEDIUM, common_pb2.SEVERITY_HIGH


def at(second: float) -> Timestamp:
    made = Timestamp()
    made.FromNanoseconds(round(second * 1e9))
    return made


def an_alert(raised: float, *, answered: float = 0, by: State.ValueType = NEW, **fields: object) -> alert_pb2.Alert:
    alert = new_alert(candidate(STORE, f"a{raised}", **fields), "s1", at(raised), "")  # type: ignore[arg-type]
    changed = Action(by, "ann", "", "").apply(alert, at(answered)) if answered else None
    return changed or alert


def test_a_shift_counts_what_was_raised_in_it_and_hands_over_what_is_open() -> None:
    shift = Shift(at(100), at(200))
    carried, high, low = an_alert(50, severity=MEDIUM), an_alert(120, severity=HIGH), an_alert(110, severity=LOW)
    repeated = an_alert(130, answered=140, by=ACKNOWLEDGED, camera="c2", poi="p2")
    repeated.suppressed_count = 3
    repeated.escalations.add(reason=alert_pb2.ESCALATION_REASON_SIMILARITY)
    closed = [an_alert(20, answered=30, by=RESOLVED), an_alert(140, answered=142, by=FALSE_MATCH)]
    for alert in (high, repeated, *closed, low, carried):
        shift.add(alert)

    found = shift.response()

    assert (found.alert_count, found.suppressed_count, found.escalated_count) == (4, 3, 1)
    assert {(each.state, each.count) for each in found.states} == {(NEW, 2), (ACKNOWLEDGED, 1), (FALSE_MATCH, 1)}
    assert [(each.severity, each.count) for each in found.severities] == [(HIGH, 3), (LOW, 1)]
    assert [(each.camera, each.count) for each in found.cameras] == [
        (f"{STORE}/cameras/c1", 3),
        (f"{STORE}/cameras/c2", 1),
    ]
    assert [(each.poi, each.display_name, each.count) for each in found.pois] == [
        (f"{STORE}/pois/p1", "Jo", 3),
        (f"{STORE}/pois/p2", "Jo", 1),
    ]
    assert (found.acknowledge_p50.seconds, found.acknowledge_p95.seconds) == (2, 10)
    assert found.open_count == 4
    assert [alert.name for alert in found.open_alerts] == [each.name for each in (high, repeated, carried, low)]


def test_the_first_thing_that_somebody_did_is_the_answer() -> None:
    shift, alert = Shift(None, at(200)), an_alert(100, answered=103, by=CONFIRMED)
    resolved = Action(RESOLVED, "ann", "", "").apply(alert, at(150))
    assert resolved is not None
    shift.add(resolved)
    assert shift.response().acknowledge_p95.seconds == 3


def test_a_quiet_shift_says_nothing_of_times() -> None:
    found = Shift(at(1), at(2)).response()
    assert found.alert_count == 0
    assert not found.HasField("acknowledge_p50")


async def test_a_shift_of_more_than_a_page_is_summed_up_on_the_server(
    client: AlertServiceAsyncStub, store: str
) -> None:
    names = await raise_numbers(client, store, range(1_030))
    middle = (await client.GetAlert(alert_pb2.GetAlertRequest(name=names[60]))).create_time
    await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=names[0], actor="ann"))
    await raise_alerts(client, store, candidate(store, "x", severity=LOW))

    request = alert_pb2.SummarizeAlertsRequest(parent=store, interval=common_pb2.Interval(start_time=at(1)))
    found = await client.SummarizeAlerts(request)
    assert (found.alert_count, found.open_count, len(found.open_alerts)) == (1_031, 1_031, 100)
    assert found.open_alerts[0].match.severity == HIGH
    assert found.acknowledge_p50.ToNanoseconds() > 0
    assert found.interval.end_time.seconds > 0

    request.interval.start_time.CopyFrom(middle)
    assert (await client.SummarizeAlerts(request)).alert_count == 981  # without the first 50, raised in one call
    missing = await fails(client.SummarizeAlerts(alert_pb2.SummarizeAlertsRequest(parent=store)))
    assert isinstance(missing, InvalidArgument)
    assert missing.violations[0][0] == "interval"
