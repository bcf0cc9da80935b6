"""Which state an alert may be brought to, as a rule and through the contract."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc.alerts import new_alert
from alert_svc.triage import ACKNOWLEDGED, CONFIRMED, FALSE_MATCH, NEW, RESOLVED, STEPS, Action, State
from mesh import errors
from tests.alert_svc.support import candidate, fails, next_event, raise_alerts

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

STORE = "stores/s1"
NOW, LATER = Timestamp(seconds=1_800_000_000), Timestamp(seconds=1_800_000_007)
ALLOWED = {
    (NEW, ACKNOWLEDGED),
    (NEW, CONFIRMED),
    (NEW, FALSE_MATCH),
    (NEW, RESOLVED),
    (ACKNOWLEDGED, CONFIRMED),
    (ACKNOWLEDGED, FALSE_MATCH),
    (ACKNOWLEDGED, RESOLVED),
    (CONFIRMED, FALSE_MATCH),
    (CONFIRMED, RESOLVED),
    (FALSE_MATCH, CONFIRMED),
}


def an_alert(state: State.ValueType = NEW) -> alert_pb2.Alert:
    alert = new_alert(candidate(STORE), "s1", NOW, "")
    alert.state = state
    return alert


@pytest.mark.parametrize(("before", "after"), list(itertools.product((NEW, *STEPS), STEPS)))
def test_each_transition_is_allowed_or_refused_or_nothing(before: State.ValueType, after: State.ValueType) -> None:
    alert = an_alert(before)
    action = Action(after, "ann", "why", "")
    if before == after:
        assert action.apply(alert, LATER) is None
    elif (before, after) in ALLOWED:
        changed = action.apply(alert, LATER)
        assert changed is not None
        said = getattr(changed, STEPS[after].field)
        assert (changed.state, said.actor, said.note, said.action_time) == (after, "ann", "why", LATER)
        assert changed.update_time == LATER
        assert changed.etag != alert.etag
    else:
        with pytest.raises(errors.FailedPrecondition) as refusal:
            action.apply(alert, LATER)
        assert refusal.value.reason == ("ALERT_RESOLVED" if before == RESOLVED else "ILLEGAL_TRANSITION")
        assert refusal.value.metadata["from"] == State.Name(before).removeprefix("ALERT_STATE_")


async def test_an_alert_is_rejected_by_mistake_and_confirmed_and_all_of_it_is_streamed(
    client: AlertServiceAsyncStub, store: str
) -> None:
    call = client.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=store))
    await call.read()
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    raised = await client.GetAlert(alert_pb2.GetAlertRequest(name=name))

    reject = alert_pb2.RejectAlertRequest(name=name, actor="ann", note="a twin", etag=raised.etag)
    rejected = await client.RejectAlert(reject)
    assert await client.RejectAlert(reject) == rejected  # sent again because its answer was lost
    refused = await fails(client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="ann")))
    stale = await fails(client.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=name, actor="eve", etag=raised.etag)))
    confirmed = await client.ConfirmAlert(
        alert_pb2.ConfirmAlertRequest(name=name, actor="bob", note="no, it is her", etag=rejected.etag)
    )
    resolved = await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="bob", etag=confirmed.etag))

    assert (refused.reason, refused.metadata["from"], refused.metadata["to"]) == (
        "ILLEGAL_TRANSITION",
        "FALSE_MATCH",
        "RESOLVED",
    )
    assert isinstance(stale, errors.Aborted)
    assert (rejected.rejection.actor, rejected.rejection.note) == ("ann", "a twin")
    assert (confirmed.state, confirmed.confirmation.note, confirmed.rejection) == (
        CONFIRMED,
        "no, it is her",
        rejected.rejection,
    )
    events = [await next_event(call) for _ in range(4)]
    call.cancel()
    assert [event.event for event in events] == [
        alert_pb2.ALERT_EVENT_RAISED,
        alert_pb2.ALERT_EVENT_REJECTED,
        alert_pb2.ALERT_EVENT_CONFIRMED,
        alert_pb2.ALERT_EVENT_RESOLVED,
    ]
    assert [event.alert for event in events] == [raised, rejected, confirmed, resolved]


async def test_a_rejected_pair_of_person_and_appearance_does_not_alert_again(
    client: AlertServiceAsyncStub, store: str
) -> None:
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    rejected = await client.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann"))
    better = candidate(store, similarity=0.99)
    assert not (await raise_alerts(client, store, better)).alerts[0].created
    assert await client.GetAlert(alert_pb2.GetAlertRequest(name=name)) == rejected
