"""Twins: two persons above their thresholds in one appearance are one alert that names both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from poi.v1 import alert_pb2, common_pb2, match_pb2

from alert_svc.alerts import new_alert
from alert_svc.kept import read_entry
from alert_svc.log import AlertLog
from alert_svc.policy import Policy
from alert_svc.times import now
from alert_svc.triage import FALSE_MATCH, RESOLVED, Action
from mesh.errors import InvalidArgument
from mesh.redis import Redis, connect
from tests.alert_svc.support import HEARTBEAT, candidate, fails, next_event, raise_alerts

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

LOW, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_HIGH
RUNNER_UP = alert_pb2.ESCALATION_REASON_RUNNER_UP


@pytest.fixture
def store_id(store: str) -> str:
    return store.removeprefix("stores/")


@pytest.fixture
def log(redis_client: Redis) -> AlertLog:
    return AlertLog(redis_client, retention_days=7)


def face(
    store_id: str,
    best: str,
    similarity: float = 0.6,
    *others: tuple[str, float],
    appearance: str = "a1",
    severity: common_pb2.Severity.ValueType = LOW,
) -> alert_pb2.Alert:
    """What a face would raise that is most like `best`, and like others."""
    made = twin(f"stores/{store_id}", best, similarity, *others, appearance=appearance, severity=severity)
    return new_alert(made, store_id, now(), "")


def twin(
    store: str, best: str, similarity: float, *others: tuple[str, float], **fields: Any
) -> alert_pb2.AlertCandidate:
    made = candidate(store, poi=best, similarity=similarity, **fields)
    for poi, value in others:
        lists = [f"{store}/watchlists/of-{poi}"]
        made.runners_up.append(match_pb2.Match(poi=f"{store}/pois/{poi}", similarity=value, watchlists=lists))
    return made


def named(alert: alert_pb2.Alert) -> list[tuple[str, float]]:
    return [(each.poi.rpartition("/")[2], round(each.similarity, 3)) for each in alert.runners_up]


async def all_of(log: AlertLog, store_id: str) -> list[alert_pb2.Alert]:
    return (await log.list(store_id, lambda _: True, limit=1000))[0]


async def test_the_better_one_alerts_and_the_other_is_its_runner_up(log: AlertLog, store_id: str) -> None:
    for _ in range(2):
        await log.raise_all(store_id, [face(store_id, "ann", 0.7, ("cleo", 0.5), ("bea", 0.6), ("ann", 0.3))])
    (alert,) = await all_of(log, store_id)
    assert named(alert) == [("bea", 0.6), ("cleo", 0.5)]
    assert not alert.escalations


async def test_the_other_one_being_better_later_is_no_second_alert(
    log: AlertLog, store_id: str, redis_client: Redis
) -> None:
    first, second = face(store_id, "ann", 0.6, ("bea", 0.5)), face(store_id, "bea", 0.65, ("ann", 0.61))
    await log.raise_all(store_id, [first])
    for _ in range(3):  # sent again, and the other way round again
        (other,) = await log.raise_all(store_id, [second])
        assert other[:4] == (first.name, False, False, True)
        (same,) = await log.raise_all(store_id, [face(store_id, "ann", 0.62, ("bea", 0.6))])
        assert same[:4] == (first.name, False, False, False)
    (alert,) = await all_of(log, store_id)
    assert named(alert) == [("bea", 0.65)]
    assert [each.reason for each in alert.escalations] == [RUNNER_UP]
    entries: Any = await redis_client.xrange(f"poi:{{{store_id}}}:alerts:log")
    assert [read_entry(*entry).event for entry in entries] == [
        alert_pb2.ALERT_EVENT_RAISED,
        alert_pb2.ALERT_EVENT_ESCALATED,
    ]


async def test_the_other_one_alone_above_the_threshold_alerts(log: AlertLog, store_id: str) -> None:
    raised = await log.raise_all(
        store_id,
        [
            face(store_id, "ann", 0.6, ("bea", 0.5)),
            face(store_id, "bea", 0.7, ("ann", 0.5)),
            face(store_id, "bea", 0.7),
            face(store_id, "ann", 0.7, ("bea", 0.6)),
        ],
    )
    assert [(each.created, each.runner_up) for each in raised] == [
        (True, False),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert len(await all_of(log, store_id)) == 2


async def test_a_rejected_twin_holds_the_other_one_back_no_more(log: AlertLog, store_id: str) -> None:
    ann, bea = face(store_id, "ann", 0.6, ("bea", 0.5)), face(store_id, "bea", 0.6, ("ann", 0.5))
    await log.raise_all(store_id, [ann])
    await log.act(ann.name, Action(FALSE_MATCH, "eve", "", ""))
    (raised,) = await log.raise_all(store_id, [bea])
    assert raised[:4] == (bea.name, True, False, False)


async def test_a_resolved_alert_has_dealt_with_the_appearance(log: AlertLog, store_id: str) -> None:
    ann = face(store_id, "ann", 0.6, ("bea", 0.5))
    await log.raise_all(store_id, [ann])
    resolved = await log.act(ann.name, Action(RESOLVED, "eve", "", ""))
    (raised,) = await log.raise_all(store_id, [face(store_id, "bea", 0.6, ("ann", 0.5))])
    assert raised.runner_up
    assert await all_of(log, store_id) == [resolved]


async def test_a_twin_who_matters_more_escalates_the_alert(log: AlertLog, store_id: str) -> None:
    await log.raise_all(store_id, [face(store_id, "ann", 0.6)])
    for _ in range(2):
        await log.raise_all(store_id, [face(store_id, "bea", 0.7, ("ann", 0.6), severity=HIGH)])
    (alert,) = await all_of(log, store_id)
    assert (alert.match.poi.rpartition("/")[2], alert.match.severity) == ("ann", HIGH)
    assert [each.reason for each in alert.escalations] == [alert_pb2.ESCALATION_REASON_SEVERITY, RUNNER_UP]


async def test_a_twin_of_whom_an_earlier_alert_took_the_appearance_in_is_named_there(
    redis_client: Redis, store_id: str
) -> None:
    log = AlertLog(redis_client, retention_days=7, policy=Policy(window_ms=60_000))
    first = face(store_id, "ann", 0.6, appearance="a0")
    await log.raise_all(store_id, [first])
    await log.raise_all(store_id, [face(store_id, "ann", 0.6, ("bea", 0.5))])
    (raised,) = await log.raise_all(store_id, [face(store_id, "bea", 0.6, ("ann", 0.5))])
    assert raised[:4] == (first.name, False, False, True)
    (alert,) = await all_of(log, store_id)
    assert (alert.suppressed_count, named(alert)) == (1, [("bea", 0.6)])


async def test_many_servers_that_see_twins_in_any_order_raise_one_alert(
    redis_server: Any, redis_client: Redis, store_id: str
) -> None:
    clients = [connect(redis_server.url) for _ in range(4)]
    logs = [AlertLog(each, retention_days=7) for each in clients]

    def sightings(number: int) -> Iterable[alert_pb2.Alert]:
        for poi, other in (("ann", "bea"), ("bea", "ann"), ("ann", "bea")):
            yield face(store_id, poi, 0.6, (other, 0.5), appearance=f"a{number}")

    jobs = [
        logs[at % 4].raise_all(store_id, [each]) for number in range(50) for at, each in enumerate(sightings(number))
    ]
    outcomes = await asyncio.gather(*jobs)
    for each in clients:
        await each.aclose()
    assert sum(raised.created for (raised,) in outcomes) == 50
    alerts = await all_of(AlertLog(redis_client, retention_days=7), store_id)
    assert len({alert.appearance for alert in alerts}) == len(alerts) == 50
    assert all(len(alert.runners_up) == 1 for alert in alerts)


async def test_runners_up_are_ten_at_most(log: AlertLog, store_id: str) -> None:
    others = [(f"p{number}", 0.5 + number / 1000) for number in range(30)]
    await log.raise_all(store_id, [face(store_id, "ann", 0.7, *others[:15])])
    await log.raise_all(store_id, [face(store_id, "ann", 0.7, *others)])
    (alert,) = await all_of(log, store_id)
    assert named(alert) == [(poi, round(value, 3)) for poi, value in reversed(others[5:15])]
    assert not alert.escalations


async def test_whoever_follows_a_list_or_a_person_hears_of_them_as_runner_up(
    client: AlertServiceAsyncStub, store: str
) -> None:
    ours = twin(store, "ann", 0.7, ("bea", 0.6))
    ours.match.watchlists.append(f"{store}/watchlists/of-ann")
    other = candidate(store, "a2", "dora")
    filters: list[dict[str, Any]] = [
        {"watchlists": [f"{store}/watchlists/of-ann"]},
        {"watchlists": [f"{store}/watchlists/of-bea", f"{store}/watchlists/x"]},
        {"pois": [f"{store}/pois/bea"]},
        {"pois": [f"{store}/pois/bea"], "watchlists": [f"{store}/watchlists/of-ann"]},
        {"watchlists": [f"{store}/watchlists/none"]},
    ]
    calls: list[Any] = [client.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=store, **each)) for each in filters]
    for call in calls:
        assert (await call.read()).event == HEARTBEAT
    await raise_alerts(client, store, other, ours)
    for call in calls[:3]:
        assert (await next_event(call)).alert.appearance == ours.appearance
    for call in calls:
        call.cancel()
    counts = [
        len((await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, **each))).alerts) for each in filters
    ]
    assert counts == [1, 1, 1, 0, 0]


async def test_bad_runners_up_and_lists_are_refused_with_their_place(client: AlertServiceAsyncStub, store: str) -> None:
    response = await raise_alerts(client, store, twin(store, "ann", 0.7, ("bea", float("nan"))), candidate(store, "a2"))
    assert [each.created for each in response.alerts] == [False, True]
    assert "candidates[0].runners_up[0].similarity" in str(response.errors[0].status)
    request = alert_pb2.ListAlertsRequest(parent=store, watchlists=["stores/other/watchlists/w"])
    error = await fails(client.ListAlerts(request))
    assert isinstance(error, InvalidArgument)
    assert error.violations[0][0] == "watchlists[0]"
