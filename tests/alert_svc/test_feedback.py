"""What people say of matches, through the contract."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from urllib.request import urlopen

import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, feedback_pb2, feedback_pb2_grpc, match_pb2

from alert_svc.feedback import metrics, reports
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh import channels, errors
from mesh.local import Service
from mesh.redis import Redis
from tests.alert_svc.support import candidate, fails, raise_alerts

CONFIRMED, NOT_THIS_PERSON = feedback_pb2.MATCH_VERDICT_CONFIRMED, feedback_pb2.MATCH_VERDICT_NOT_THIS_PERSON


@pytest.fixture
async def feedback(alert_server: Service) -> AsyncIterator[feedback_pb2_grpc.FeedbackServiceAsyncStub]:
    channel = channels.connect(alert_server.target)
    yield feedback_pb2_grpc.FeedbackServiceStub(channel)
    await channel.close()


def said(
    store: str,
    verdict: feedback_pb2.MatchVerdict.ValueType,
    appearance: str = "a1",
    poi: str = "p1",
    *,
    actor: str = "ann",
    note: str = "",
    camera: str = "",
    match: match_pb2.Match | None = None,
) -> feedback_pb2.ReportMatchRequest:
    return feedback_pb2.ReportMatchRequest(
        parent=store,
        appearance=f"{store}/appearances/{appearance}",
        poi=f"{store}/pois/{poi}",
        verdict=verdict,
        actor=actor,
        note=note,
        camera=camera,
        match=match,
    )


async def raise_one(
    client: alert_pb2_grpc.AlertServiceAsyncStub, store: str, appearance: str = "a1"
) -> alert_pb2.RaisedAlert:
    return (await raise_alerts(client, store, candidate(store, appearance))).alerts[0]


async def get(client: alert_pb2_grpc.AlertServiceAsyncStub, name: str) -> alert_pb2.Alert:
    return await client.GetAlert(alert_pb2.GetAlertRequest(name=name))


async def listed(
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str, **wanted: object
) -> list[feedback_pb2.MatchReport]:
    request = feedback_pb2.ListMatchReportsRequest(parent=store, **wanted)  # type: ignore[arg-type]
    return list((await feedback.ListMatchReports(request)).match_reports)


async def test_whoever_rejects_or_confirms_an_alert_reports_its_match(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    name = (await raise_one(client, store)).alert
    rejected = await client.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann", note="older"))
    (report,) = await listed(feedback, store)
    assert report == feedback_pb2.MatchReport(
        name=f"{store}/matchReports/{name.rpartition('/')[2]}",
        appearance=rejected.appearance,
        poi=rejected.match.poi,
        verdict=NOT_THIS_PERSON,
        actor="ann",
        note="older",
        report_time=rejected.rejection.action_time,
        camera=rejected.camera,
        alert=name,
        match=rejected.match,
    )
    await client.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=name, actor="bob"))
    (corrected,) = await listed(feedback, store)
    assert (corrected.name, corrected.verdict, corrected.actor) == (report.name, CONFIRMED, "bob")
    await client.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="eve"))
    (corrected,) = await listed(feedback, store)
    assert (corrected.verdict, corrected.actor) == (NOT_THIS_PERSON, "eve")
    assert await listed(feedback, store, verdict=CONFIRMED) == []


async def test_acknowledging_and_resolving_report_nothing(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    name = (await raise_one(client, store)).alert
    await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann"))
    await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="ann"))
    assert await listed(feedback, store) == []


async def test_a_report_closes_the_open_alert_of_its_pair_and_a_later_one_opens_it(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    raised, other = [(await raise_one(client, store, appearance)).alert for appearance in ("a1", "a2")]
    before = await get(client, raised)
    report = await feedback.ReportMatch(said(store, NOT_THIS_PERSON, note="taller"))
    alert = await get(client, raised)
    assert (alert.state, alert.rejection.actor, alert.rejection.note) == (
        alert_pb2.ALERT_STATE_FALSE_MATCH,
        "ann",
        "taller",
    )
    assert alert.etag != before.etag
    assert (report.alert, report.match, report.camera) == (raised, before.match, before.camera)
    assert report.report_time == alert.rejection.action_time
    assert (await get(client, other)).state == alert_pb2.ALERT_STATE_NEW

    await feedback.ReportMatch(said(store, CONFIRMED, actor="bob"))
    assert (await get(client, raised)).state == alert_pb2.ALERT_STATE_CONFIRMED
    stale = alert_pb2.RejectAlertRequest(name=raised, actor="eve", etag=alert.etag)
    assert isinstance(await fails(client.RejectAlert(stale)), errors.Aborted)
    (kept,) = await listed(feedback, store)
    assert (kept.verdict, kept.actor, kept.match) == (CONFIRMED, "bob", before.match)


async def test_a_resolved_alert_stays_resolved_whatever_is_said_of_it(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    name = (await raise_one(client, store)).alert
    resolved = await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="ann"))
    for verdict in (NOT_THIS_PERSON, CONFIRMED):
        report = await feedback.ReportMatch(said(store, verdict))
        assert (report.verdict, report.alert, report.match) == (verdict, name, resolved.match)
    assert await get(client, name) == resolved


async def test_a_repeat_changes_nothing(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    name = (await raise_one(client, store)).alert
    first = await feedback.ReportMatch(said(store, NOT_THIS_PERSON))
    closed = await get(client, name)
    assert await feedback.ReportMatch(said(store, NOT_THIS_PERSON)) == first
    assert await get(client, name) == closed
    again = await feedback.ReportMatch(said(store, NOT_THIS_PERSON, actor="bob"))  # the latest holds
    assert (again.name, again.actor) == (first.name, "bob")
    assert await get(client, name) == closed
    assert await listed(feedback, store) == [again]


async def test_a_rejected_pair_raises_no_alert_until_it_is_confirmed(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    match = match_pb2.Match(similarity=0.5)
    report = await feedback.ReportMatch(said(store, NOT_THIS_PERSON, match=match, camera=f"{store}/cameras/c9"))
    assert (report.alert, report.match.poi, report.camera) == ("", report.poi, f"{store}/cameras/c9")
    candidates = [candidate(store, "a1"), candidate(store, "a2"), candidate(store, "a1", "p2")]
    answers = (await raise_alerts(client, store, *candidates)).alerts
    assert [(each.created, each.rejected) for each in answers] == [(False, True), (True, False), (True, False)]
    assert answers[0] == alert_pb2.RaisedAlert(rejected=True)

    corrected = await feedback.ReportMatch(said(store, CONFIRMED))
    assert (corrected.match, corrected.camera) == (report.match, report.camera)  # as it was known before
    raised = await raise_one(client, store)
    assert raised.created
    await client.RejectAlert(alert_pb2.RejectAlertRequest(name=raised.alert, actor="ann"))
    assert await raise_one(client, store) == alert_pb2.RaisedAlert(alert=raised.alert, rejected=True)
    await client.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=raised.alert, actor="ann"))
    again = await raise_one(client, store)
    assert (again.alert, again.created, again.rejected) == (raised.alert, False, False)


async def test_a_rejected_pair_is_no_repeat_of_an_open_alert(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    settings = alert_pb2.AlertSettings(name=f"{store}/alertSettings")
    settings.suppression_window.FromSeconds(60)
    await client.UpdateAlertSettings(alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings))
    name = (await raise_one(client, store)).alert
    await feedback.ReportMatch(said(store, NOT_THIS_PERSON, "a2"))
    assert (await raise_one(client, store, "a2")).rejected
    assert (await get(client, name)).suppressed_count == 0
    assert (await raise_one(client, store, "a3")).suppressed


async def test_who_reports_while_the_alert_is_raised_leaves_no_open_alert(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    async def report_and_raise(number: int) -> None:
        raising = raise_alerts(client, store, candidate(store, f"a{number}"))
        reporting = feedback.ReportMatch(said(store, NOT_THIS_PERSON, f"a{number}"))
        await asyncio.gather(raising, reporting)

    await asyncio.gather(*(report_and_raise(number) for number in range(60)))
    alerts = (await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, page_size=1000))).alerts
    assert {alert.state for alert in alerts} <= {alert_pb2.ALERT_STATE_FALSE_MATCH}
    assert len(await listed(feedback, store, page_size=1000)) == 60


async def test_reports_come_in_pages_latest_first(
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    for number in range(7):
        verdict = CONFIRMED if number % 2 else NOT_THIS_PERSON
        await feedback.ReportMatch(said(store, verdict, f"a{number}", f"p{number % 3}"))
    await feedback.ReportMatch(said(store, CONFIRMED, "a0", "p0"))  # the latest now
    request, ids, sizes = feedback_pb2.ListMatchReportsRequest(parent=store, page_size=3), list[str](), list[int]()
    while not sizes or request.page_token:
        page = await feedback.ListMatchReports(request)
        ids += [report.appearance.rpartition("/")[2] for report in page.match_reports]
        sizes.append(len(page.match_reports))
        request.page_token = page.next_page_token
    assert (ids, sizes) == (["a0", "a6", "a5", "a4", "a3", "a2", "a1"], [3, 3, 1])
    of_two = await listed(feedback, store, verdict=NOT_THIS_PERSON, pois=[f"{store}/pois/p2", f"{store}/pois/p1"])
    assert [report.appearance.rpartition("/")[2] for report in of_two] == ["a4", "a2"]

    request = feedback_pb2.ListMatchReportsRequest(parent=store, page_size=3)
    request.page_token = (await feedback.ListMatchReports(request)).next_page_token
    request.verdict = CONFIRMED
    assert (await fails(feedback.ListMatchReports(request))).reason == "INVALID_PAGE_TOKEN"


async def test_a_threshold_is_suggested_from_what_was_asked_for(
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    lists = [f"{store}/watchlists/thieves"]
    similarities = itertools.chain(
        ((CONFIRMED, 0.61 + 0.01 * number) for number in range(6)),
        ((NOT_THIS_PERSON, 0.46 + 0.01 * number) for number in range(5)),
    )
    for number, (verdict, similarity) in enumerate(similarities):
        match = match_pb2.Match(similarity=similarity, threshold=0.45, watchlists=lists)
        await feedback.ReportMatch(
            said(store, verdict, f"a{number}", match=match, camera=f"{store}/cameras/c{number % 2}")
        )
    await feedback.ReportMatch(said(store, NOT_THIS_PERSON, "unknown"))  # no match: it has no part

    async def suggest(**wanted: object) -> feedback_pb2.SuggestThresholdResponse:
        request = feedback_pb2.SuggestThresholdRequest(parent=store, **wanted)  # type: ignore[arg-type]
        return await feedback.SuggestThreshold(request)

    found = await suggest(watchlist=lists[0], poi=f"{store}/pois/p1")
    assert (found.confirmed_count, found.false_count) == (6, 5)
    assert [round(each.threshold, 4) for each in found.outcomes] == [number / 100 for number in range(45, 68)]
    best = found.suggestion
    assert (round(best.threshold, 4), best.confirmed_kept, best.false_avoided) == (0.61, 6, 5)
    assert found.outcomes[0].false_kept == 5
    assert (await suggest(watchlist=f"{store}/watchlists/staff")).false_count == 0
    assert (await suggest(poi=f"{store}/pois/p2")) == feedback_pb2.SuggestThresholdResponse()
    one_camera = await suggest(cameras=[f"{store}/cameras/c0"])
    assert (one_camera.confirmed_count, one_camera.false_count) == (3, 3)
    assert not one_camera.HasField("suggestion")  # too few
    later = feedback_pb2.SuggestThresholdRequest(parent=store)
    later.interval.start_time.FromMicroseconds(now().ToMicroseconds() + 60_000_000)
    assert (await feedback.SuggestThreshold(later)).confirmed_count == 0


async def test_what_is_of_another_store_or_no_match_is_refused(
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    async def refused(call: object, *fields: str) -> None:
        error = await fails(call)  # type: ignore[arg-type]
        assert isinstance(error, errors.InvalidArgument)
        assert [field for field, _ in error.violations] == list(fields)

    good = said(store, CONFIRMED)
    for field in ("poi", "appearance"):
        wrong = feedback_pb2.ReportMatchRequest()
        wrong.CopyFrom(good)
        setattr(wrong, field, getattr(good, field).replace(store, "stores/other"))
        await refused(feedback.ReportMatch(wrong), field)
    await refused(feedback.ReportMatch(said(store, CONFIRMED, camera="stores/other/cameras/c1")), "camera")
    match = match_pb2.Match(
        poi=f"{store}/pois/p2", similarity=float("nan"), threshold=7, watchlists=["stores/other/watchlists/w"]
    )
    await refused(
        feedback.ReportMatch(said(store, CONFIRMED, match=match)),
        "match.watchlists[0]",
        "match.similarity",
        "match.threshold",
        "match.poi",
    )
    await refused(feedback.ReportMatch(said(store, CONFIRMED, actor="")), "actor")
    await refused(feedback.ReportMatch(said(store, feedback_pb2.MATCH_VERDICT_UNSPECIFIED)), "verdict")
    of_others = feedback_pb2.ListMatchReportsRequest(parent=store, pois=[good.poi, "stores/other/pois/p1"])
    await refused(feedback.ListMatchReports(of_others), "pois[1]")
    for wanted in (
        feedback_pb2.SuggestThresholdRequest(parent=store, watchlist="stores/other/watchlists/w"),
        feedback_pb2.SuggestThresholdRequest(parent=store, poi="stores/other/pois/p"),
        feedback_pb2.SuggestThresholdRequest(parent=store, max_missed_share=0.6),
    ):
        await refused(feedback.SuggestThreshold(wanted), wanted.ListFields()[1][0].name)
    assert await listed(feedback, store) == []


async def test_reports_go_with_the_retention_of_alerts(redis_client: Redis) -> None:
    log = AlertLog(redis_client, retention_days=1)
    old, young = (
        reports.requested(said("stores/aging", NOT_THIS_PERSON, appearance), "aging", now())
        for appearance in ("old", "young")
    )
    old.report_time.FromMicroseconds(now().ToMicroseconds() - 90_000_000_000)
    for report in (old, young):
        await log.report(report)
    await AlertLog(redis_client, retention_days=1).sweep()
    assert [each.name for each in (await log.reports.page("aging", lambda _: True, limit=9))[0]] == [young.name]
    assert await redis_client.hlen("poi:{aging}:feedback") == 1


async def test_verdicts_are_counted_once_by_camera_list_and_person(
    alert_server: Service,
    client: alert_pb2_grpc.AlertServiceAsyncStub,
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub,
    store: str,
) -> None:
    def counted(metric: str, **labels: str) -> float | None:
        with urlopen(alert_server.metrics_url) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in {"store": store.rpartition("/")[2], **labels}.items()]
        return next(
            (
                float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith(f"{metric}{{") and all(each in line for each in wanted)
            ),
            None,
        )

    made = candidate(store)
    made.match.watchlists[:] = [f"{store}/watchlists/thieves", f"{store}/watchlists/all"]
    name = (await raise_alerts(client, store, made)).alerts[0].alert
    place = {"camera": "c1", "watchlist": "thieves"}
    for verdict in ("confirmed", "not_this_person"):  # so that the first verdict is an increase
        assert counted("poi_alert_verdicts_total", verdict=verdict, **place) == 0
    await client.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann"))
    await client.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann"))
    await feedback.ReportMatch(said(store, NOT_THIS_PERSON, actor="bob"))  # the same verdict
    assert counted("poi_alert_verdicts_total", verdict="not_this_person", **place) == 1
    await client.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=name, actor="ann"))
    for verdict in ("confirmed", "not_this_person"):
        assert counted("poi_alert_verdicts_total", verdict=verdict, **place) == 1
        assert counted("poi_alert_verdicts_by_poi_total", verdict=verdict, poi="p1") == 1


def test_label_sets_have_a_bound() -> None:
    bounded = metrics.Bounded(2)
    taken = [bounded("s", name) for name in ("a", "b", "c", "a", "d")]
    assert [labels for labels, _ in taken] == [("s", "a"), ("s", "b"), ("other",) * 2, ("s", "a"), ("other",) * 2]
    assert [is_new for _, is_new in taken] == [True, True, False, False, False]


async def test_a_rejected_twin_holds_the_other_one_back_no_more(
    client: alert_pb2_grpc.AlertServiceAsyncStub, feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub, store: str
) -> None:
    ann, bea = candidate(store, "a1", "ann"), candidate(store, "a1", "bea")
    bea.runners_up.append(ann.match)
    name = (await raise_alerts(client, store, ann)).alerts[0].alert
    await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="eve"))
    assert (await raise_alerts(client, store, bea)).alerts[0].runner_up
    await feedback.ReportMatch(said(store, NOT_THIS_PERSON, "a1", "ann"))
    assert (await raise_alerts(client, store, bea)).alerts[0].created
