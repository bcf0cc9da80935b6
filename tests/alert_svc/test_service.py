"""Alerts through the contract, on a running server."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest
from google.rpc import error_details_pb2
from poi.v1 import alert_pb2, common_pb2

from mesh import errors
from mesh.local import Service
from tests.alert_svc.support import candidate, fails, raise_alerts, raise_numbers

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub


async def test_an_alert_is_raised_once_for_a_person_and_an_appearance(
    client: AlertServiceAsyncStub, store: str
) -> None:
    first = await raise_alerts(client, store, candidate(store), candidate(store, poi="p2"), candidate(store))
    again = await raise_alerts(client, store, candidate(store), candidate(store, "a2"))

    assert [raised.created for raised in first.alerts] == [True, True, False]
    assert [raised.created for raised in again.alerts] == [False, True]
    assert again.alerts[0].alert == first.alerts[0].alert == first.alerts[2].alert
    assert len({raised.alert for raised in (*first.alerts, *again.alerts)}) == 3


async def test_a_raised_alert_says_what_similarity_would_escalate_it(client: AlertServiceAsyncStub, store: str) -> None:
    async def answered(similarity: float) -> float:
        response = await raise_alerts(client, store, candidate(store, similarity=similarity))
        return response.alerts[0].escalation_similarity

    assert [await answered(value) for value in (0.5, 0.59, 0.6, 0.55)] == pytest.approx([0.6, 0.6, 0.7, 0.7])
    settings = alert_pb2.AlertSettings(name=f"{store}/alertSettings", escalation_margin=0.2)
    await client.UpdateAlertSettings(alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings))
    assert await answered(0.55) == pytest.approx(0.8)
    alert = await client.GetAlert(
        alert_pb2.GetAlertRequest(name=(await raise_alerts(client, store, candidate(store))).alerts[0].alert)
    )
    assert alert.match.similarity == pytest.approx(0.6)
    assert len(alert.escalations) == 1


async def test_an_alert_says_who_where_and_when(client: AlertServiceAsyncStub, store: str) -> None:
    sent = candidate(store)
    name = (await raise_alerts(client, store, sent)).alerts[0].alert

    alert = await client.GetAlert(alert_pb2.GetAlertRequest(name=name))

    assert (alert.name, alert.match, alert.appearance, alert.camera) == (name, sent.match, sent.appearance, sent.camera)
    assert (alert.detection_id, alert.detect_time, alert.person_box) == ("d" * 32, sent.detect_time, sent.person_box)
    assert not alert.HasField("face_box")
    assert alert.state == alert_pb2.ALERT_STATE_NEW
    assert alert.create_time == alert.update_time
    assert 0 <= alert.create_time.ToNanoseconds() - sent.detect_time.ToNanoseconds() < 60e9
    assert alert.etag


async def test_a_bad_candidate_is_answered_with_its_error_and_the_rest_is_used(
    client: AlertServiceAsyncStub, store: str
) -> None:
    wrong = [candidate(store, f"a{number}") for number in range(7)]
    wrong[0].match.poi = ""
    wrong[1].appearance = "appearances/a"
    wrong[2].camera = "stores/elsewhere/cameras/c"
    wrong[3].ClearField("detect_time")
    wrong[4].match.similarity = float("nan")
    wrong[5].match.threshold = float("inf")
    wrong[6].detect_time.nanos = -5
    good = candidate(store, "good")

    response = await raise_alerts(client, store, *wrong[:3], good, *wrong[3:])

    assert [raised.created for raised in response.alerts] == [False] * 3 + [True] + [False] * 4
    assert [bool(raised.alert) for raised in response.alerts] == [raised.created for raised in response.alerts]
    assert [error.index for error in response.errors] == [0, 1, 2, 4, 5, 6, 7]
    fields = []
    for error in response.errors:
        assert error.item_id == "d" * 32
        assert error.status.code == 3
        bad = error_details_pb2.BadRequest()
        assert error.status.details[1].Unpack(bad)
        fields += [violation.field for violation in bad.field_violations]
    assert fields == [
        "candidates[0].match.poi",
        "candidates[1].appearance",
        "candidates[2].camera",
        "candidates[4].detect_time",
        "candidates[5].match.similarity",
        "candidates[6].match.threshold",
        "candidates[7].detect_time",
    ]


async def test_requests_that_break_the_contract_name_the_field(client: AlertServiceAsyncStub, store: str) -> None:
    no_items = await fails(client.RaiseAlerts(alert_pb2.RaiseAlertsRequest(parent=store)))
    bad_parent = await fails(client.ListAlerts(alert_pb2.ListAlertsRequest(parent="shop/1")))
    bad_camera = await fails(client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, cameras=["c1"])))
    other_store = await fails(client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, pois=["stores/x/pois/p"])))
    for error, field in (
        (no_items, "candidates"),
        (bad_parent, "parent"),
        (bad_camera, "cameras[0]"),
        (other_store, "pois[0]"),
    ):
        assert isinstance(error, errors.InvalidArgument)
        assert [violation[0] for violation in error.violations] == [field]


async def test_an_alert_is_acknowledged_and_resolved_and_repeats_change_nothing(
    client: AlertServiceAsyncStub, store: str
) -> None:
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    raised = await client.GetAlert(alert_pb2.GetAlertRequest(name=name))
    acknowledge = alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann", note="going", etag=raised.etag)
    resolve = alert_pb2.ResolveAlertRequest(name=name, actor="bob", note="left")

    acknowledged = await client.AcknowledgeAlert(acknowledge)
    assert acknowledged.state == alert_pb2.ALERT_STATE_ACKNOWLEDGED
    assert (acknowledged.acknowledgement.actor, acknowledged.acknowledgement.note) == ("ann", "going")
    assert acknowledged.etag != raised.etag
    assert acknowledged.update_time.ToNanoseconds() > raised.update_time.ToNanoseconds()
    # As the client's channel sends it again when the answer is lost: with the etag from before.
    assert await client.AcknowledgeAlert(acknowledge) == acknowledged
    by_another = alert_pb2.AcknowledgeAlertRequest(name=name, actor="eve")
    assert await client.AcknowledgeAlert(by_another) == acknowledged

    resolved = await client.ResolveAlert(resolve)
    assert resolved.state == alert_pb2.ALERT_STATE_RESOLVED
    assert resolved.acknowledgement == acknowledged.acknowledgement
    assert (resolved.resolution.actor, resolved.resolution.note) == ("bob", "left")
    assert await client.ResolveAlert(resolve) == resolved
    assert await client.GetAlert(alert_pb2.GetAlertRequest(name=name)) == resolved

    late = await fails(client.AcknowledgeAlert(acknowledge))
    assert isinstance(late, errors.FailedPrecondition)
    assert late.reason == "ALERT_RESOLVED"


async def test_a_stale_etag_aborts_and_changes_nothing(client: AlertServiceAsyncStub, store: str) -> None:
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    stale = (await client.GetAlert(alert_pb2.GetAlertRequest(name=name))).etag
    now = await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann"))

    for call in (
        client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="bob", etag=stale)),
        client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="bob", etag=stale)),
    ):
        error = await fails(call)
        assert isinstance(error, errors.Aborted)
        assert error.reason == "ETAG_MISMATCH"
    assert await client.GetAlert(alert_pb2.GetAlertRequest(name=name)) == now


async def test_an_alert_that_is_not_there_is_not_found(client: AlertServiceAsyncStub, store: str) -> None:
    name = f"{store}/alerts/{'0' * 32}"
    for call in (
        client.GetAlert(alert_pb2.GetAlertRequest(name=name)),
        client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann")),
        client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="ann")),
    ):
        assert isinstance(await fails(call), errors.NotFound)


async def test_pages_are_newest_first_and_stay_put_while_alerts_come_in(
    client: AlertServiceAsyncStub, store: str
) -> None:
    names = await raise_numbers(client, store, range(120))
    request = alert_pb2.ListAlertsRequest(parent=store, page_size=50)
    pages: list[list[alert_pb2.Alert]] = []
    while not pages or request.page_token:
        page = await client.ListAlerts(request)
        pages.append(list(page.alerts))
        request.page_token = page.next_page_token
        await raise_alerts(client, store, candidate(store, f"new{len(pages)}"))

    assert [len(page) for page in pages] == [50, 50, 20]
    listed = [alert for page in pages for alert in page]
    assert sorted(alert.name for alert in listed) == sorted(names)
    times = [alert.create_time.ToNanoseconds() for alert in listed]
    assert times == sorted(times, reverse=True)


async def test_a_last_page_that_is_full_has_no_token(client: AlertServiceAsyncStub, store: str) -> None:
    await raise_numbers(client, store, range(4))
    page = await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, page_size=4))
    assert (len(page.alerts), page.next_page_token) == (4, "")
    other = alert_pb2.ListAlertsRequest(
        parent=store,
        page_size=2,
        page_token=(await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, page_size=2))).next_page_token,
        min_severity=common_pb2.SEVERITY_LOW,
    )
    assert (await fails(client.ListAlerts(other))).reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("selects", ["severity", "camera", "poi", "state", "interval", "nothing"])
async def test_a_list_is_filtered(client: AlertServiceAsyncStub, store: str, selects: str) -> None:
    await raise_alerts(client, store, candidate(store, "a1", "p1", camera="c1", severity=common_pb2.SEVERITY_LOW))
    await raise_alerts(client, store, candidate(store, "a2", "p2", camera="c2", severity=common_pb2.SEVERITY_MEDIUM))
    await raise_alerts(client, store, candidate(store, "a3", "p3", camera="c3", severity=common_pb2.SEVERITY_HIGH))
    every = (await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store))).alerts
    third, second, first = every
    await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=first.name, actor="ann"))
    request, wanted = {
        "severity": (alert_pb2.ListAlertsRequest(min_severity=common_pb2.SEVERITY_MEDIUM), [third, second]),
        "camera": (alert_pb2.ListAlertsRequest(cameras=[second.camera, f"{store}/cameras/no"]), [second]),
        "poi": (alert_pb2.ListAlertsRequest(pois=[third.match.poi, first.match.poi]), [third, first]),
        "state": (alert_pb2.ListAlertsRequest(state=alert_pb2.ALERT_STATE_RESOLVED), [first]),
        "interval": (
            alert_pb2.ListAlertsRequest(
                interval=common_pb2.Interval(start_time=first.create_time, end_time=third.create_time)
            ),
            [second, first],
        ),
        "nothing": (alert_pb2.ListAlertsRequest(pois=[f"{store}/pois/no"]), []),
    }[selects]
    request.parent = store

    listed = (await client.ListAlerts(request)).alerts

    assert [alert.name for alert in listed] == [alert.name for alert in wanted]


async def test_stores_do_not_see_each_other(client: AlertServiceAsyncStub, store: str) -> None:
    await raise_alerts(client, store, candidate(store))
    assert not (await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=f"{store}-2"))).alerts


async def test_metrics_count_what_was_raised(client: AlertServiceAsyncStub, alert_server: Service, store: str) -> None:
    def counts() -> list[float]:
        with urllib.request.urlopen(alert_server.metrics_url) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        wanted = ("poi_alerts_raised_total", "poi_alert_duplicates_total", "poi_alert_candidates_refused_total")
        return [float(lines[name]) for name in wanted]

    before = counts()
    bad = candidate(store)
    bad.camera = ""
    await raise_alerts(client, store, candidate(store), candidate(store, "a2"), candidate(store), bad)
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [2, 1, 1]
