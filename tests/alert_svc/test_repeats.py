"""Appearances that follow an open alert: taken in, counted once, and what they escalate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, common_pb2

from alert_svc.alerts import new_alert
from alert_svc.kept import read_entry
from alert_svc.log import AlertLog
from alert_svc.policy import Policy
from alert_svc.times import now
from alert_svc.triage import CONFIRMED, FALSE_MATCH, RESOLVED, Action
from mesh import local
from mesh.errors import InvalidArgument
from mesh.redis import Redis, connect
from tests.alert_svc.support import candidate, fails, next_event, raise_alerts
from tests.support.redis import KINDS, RedisOfKind

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

STORE = "stores/s1"
RAISED, ESCALATED, SUPPRESSED = (
    alert_pb2.ALERT_EVENT_RAISED,
    alert_pb2.ALERT_EVENT_ESCALATED,
    alert_pb2.ALERT_EVENT_SUPPRESSED,
)
MINUTE = Policy(window_ms=60_000, margin=0.1)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Redis]:
    with RedisOfKind(tmp_path_factory.mktemp("redis"), request.param) as running:
        yield running


@pytest.fixture
async def redis(server: local.Redis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    await client.flushall()
    yield client
    await client.aclose()


def seen(appearance: str, at_seconds: float = 0, **fields: Any) -> alert_pb2.Alert:
    """The alert that an appearance would raise, of a frame so many seconds after noon."""
    made = candidate(STORE, appearance, **fields)
    made.detect_time.FromNanoseconds(round((1_800_000_000 + at_seconds) * 1e9))
    return new_alert(made, "s1", now(), "")


async def events(redis: Redis) -> list[int]:
    entries: Any = await redis.xrange("poi:{s1}:alerts:log")
    return [read_entry(entry_id, fields).event for entry_id, fields in entries]


async def test_appearances_within_the_window_are_added_to_the_first_one_once_each(redis: Redis) -> None:
    log, first, second = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1"), seen("a2", 59)
    await log.raise_all("s1", [first])
    for _ in range(3):  # as ingest sends it again after a crash
        (raised,) = await log.raise_all("s1", [second])
        assert raised[:3] == (first.name, False, True)
    assert [raised.created for raised in await log.raise_all("s1", [seen("a3", 61)])] == [True]

    alert = await log.get(first.name)
    assert (alert.suppressed_count, alert.last_suppressed_time) == (1, second.detect_time)
    assert alert.etag != first.etag
    assert await events(redis) == [RAISED, SUPPRESSED, RAISED]


async def test_the_window_is_measured_from_the_alert_so_that_who_stays_alerts_again(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7, policy=MINUTE)
    raised = [(await log.raise_all("s1", [seen(f"a{at}", at)]))[0].created for at in range(0, 200, 25)]
    assert raised == [True, False, False, True, False, False, True, False]


async def test_a_frame_that_comes_late_is_compared_by_its_own_time(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7, policy=MINUTE)
    raised = [
        (await log.raise_all("s1", [seen(f"a{number}", at)]))[0].created
        for number, at in enumerate((1000, 960, 100, 1030, 90))
    ]
    # The old one at 100 does not take the window from the newer alert; that at 90 is old and alone.
    assert raised == [True, False, True, False, True]


@pytest.mark.parametrize(("per_camera", "created"), [(True, True), (False, False)])
async def test_another_camera_is_a_repeat_where_the_store_says_so(
    redis: Redis, per_camera: bool, created: bool
) -> None:
    log = AlertLog(redis, retention_days=7, policy=Policy(window_ms=60_000, per_camera=per_camera))
    await log.raise_all("s1", [seen("a1", camera="c1")])
    (elsewhere,) = await log.raise_all("s1", [seen("a2", 5, camera="c2")])
    (other,) = await log.raise_all("s1", [seen("a3", 5, poi="p2")])
    assert (elsewhere.created, other.created) == (created, True)


async def test_who_comes_back_after_the_alert_was_closed_raises_another(redis: Redis) -> None:
    log, first = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1")
    await log.raise_all("s1", [first])
    await log.act(first.name, Action(RESOLVED, "ann", "", ""))
    (back,) = await log.raise_all("s1", [seen("a2", 10)])
    assert back.created
    (again,) = await log.raise_all("s1", [seen("a3", 20)])
    assert again[:3] == (back.alert, False, True)


async def test_a_repeat_of_an_alert_that_was_rejected_since_raises_its_own(redis: Redis) -> None:
    log, first, second = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1"), seen("a2", 10)
    await log.raise_all("s1", [first])
    (taken,) = await log.raise_all("s1", [second])
    assert (taken.suppressed, taken.escalates_at) == (True, 0.0), "it is to be sent again"
    await log.act(first.name, Action(FALSE_MATCH, "ann", "taller", ""))

    (raised,) = await log.raise_all("s1", [second])
    assert raised[:2] == (second.name, True)
    (rejected,) = await log.raise_all("s1", [first])
    assert (rejected.created, rejected.rejected) == (False, True)
    (again,) = await log.raise_all("s1", [seen("a3", 20)])
    assert again[:3] == (second.name, False, True)


async def test_an_alert_that_was_rejected_by_mistake_takes_in_repeats_again(redis: Redis) -> None:
    log, first = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1")
    await log.raise_all("s1", [first])
    for state in (FALSE_MATCH, CONFIRMED):
        await log.act(first.name, Action(state, "ann", "", ""))
    (back,) = await log.raise_all("s1", [seen("a2", 10)])
    assert back[:3] == (first.name, False, True)
    assert (await log.get(first.name)).suppressed_count == 1


async def test_a_burst_of_one_person_is_one_alert_and_one_update(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7, policy=MINUTE)
    burst = [seen(f"a{number}", number / 10) for number in range(256)]
    raised = await log.raise_all("s1", [*burst, burst[7]])
    assert [each.created for each in raised] == [True] + [False] * 256
    assert {each.alert for each in raised} == {burst[0].name}
    assert (await log.get(burst[0].name)).suppressed_count == 255
    assert await events(redis) == [RAISED, SUPPRESSED]


async def test_many_servers_that_add_to_one_alert_at_once_lose_no_count(redis: Redis, server: local.Redis) -> None:
    clients = [connect(server.url) for _ in range(4)]
    logs = [AlertLog(client, retention_days=7, policy=MINUTE) for client in clients]
    first = seen("first")
    await logs[0].raise_all("s1", [first])
    # Each appearance goes to two servers, as when ingest's first call is cut off and repeated elsewhere.
    await asyncio.gather(
        *(
            logs[(number + turn) % 4].raise_all("s1", [seen(f"a{number}", 1)])
            for number in range(100)
            for turn in range(2)
        )
    )
    for client in clients:
        await client.aclose()
    assert (await AlertLog(redis, retention_days=7).get(first.name)).suppressed_count == 100


async def test_a_much_better_match_escalates_and_a_slightly_better_one_does_not(redis: Redis) -> None:
    log, first = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1", similarity=0.5)
    await log.raise_all("s1", [first])
    await log.raise_all("s1", [seen("a1", 1, similarity=0.59)])
    assert await events(redis) == [RAISED]
    for _ in range(2):
        await log.raise_all("s1", [seen("a1", 2, similarity=0.6)])

    alert = await log.get(first.name)
    assert await events(redis) == [RAISED, ESCALATED]
    assert [(each.reason, round(each.similarity, 3)) for each in alert.escalations] == [
        (alert_pb2.ESCALATION_REASON_SIMILARITY, 0.6)
    ]
    assert (round(alert.match.similarity, 3), alert.suppressed_count) == (0.6, 0)


async def test_a_repeat_that_matters_more_escalates_the_alert_it_is_added_to(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7, policy=MINUTE)
    first = seen("a1", severity=common_pb2.SEVERITY_LOW, similarity=0.8)
    await log.raise_all("s1", [first])
    for _ in range(2):
        await log.raise_all("s1", [seen("a2", 1, severity=common_pb2.SEVERITY_HIGH, similarity=0.6)])

    alert = await log.get(first.name)
    assert await events(redis) == [RAISED, ESCALATED]
    assert (alert.match.severity, round(alert.match.similarity, 3)) == (common_pb2.SEVERITY_HIGH, 0.8)
    assert (alert.suppressed_count, len(alert.escalations)) == (1, 1)
    # It is HIGH now, so it waits for somebody from now on.
    assert await redis.zcard("poi:{s1}:alerts:due") == 1


async def test_a_closed_alert_does_not_escalate(redis: Redis) -> None:
    log, first = AlertLog(redis, retention_days=7, policy=MINUTE), seen("a1", similarity=0.5)
    await log.raise_all("s1", [first])
    resolved = await log.act(first.name, Action(RESOLVED, "ann", "", ""))
    await log.raise_all("s1", [seen("a1", 1, similarity=0.9)])
    assert await log.get(first.name) == resolved


async def test_a_store_sets_its_own_window_and_takes_it_back(client: AlertServiceAsyncStub, store: str) -> None:
    name = f"{store}/alertSettings"
    before = await client.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=name))
    wanted = alert_pb2.AlertSettings(
        name=name, suppression_window=Duration(seconds=60), suppression_scope=alert_pb2.SUPPRESSION_SCOPE_POI
    )
    changed = await client.UpdateAlertSettings(alert_pb2.UpdateAlertSettingsRequest(alert_settings=wanted))
    assert (changed.suppression_window.seconds, changed.suppression_scope) == (60, alert_pb2.SUPPRESSION_SCOPE_POI)
    assert changed.escalation_delay == before.escalation_delay

    call = client.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=store))
    await call.read()
    response = await raise_alerts(client, store, candidate(store), candidate(store, "a2", camera="c2"))
    assert [(raised.created, raised.suppressed) for raised in response.alerts] == [(True, False), (False, True)]
    told = [await next_event(call) for _ in range(2)]
    call.cancel()
    assert [event.event for event in told] == [RAISED, SUPPRESSED]
    assert [event.alert.suppressed_count for event in told] == [0, 1]

    back = await client.UpdateAlertSettings(
        alert_pb2.UpdateAlertSettingsRequest(
            alert_settings=alert_pb2.AlertSettings(name=name), update_mask=FieldMask(paths=["*"])
        )
    )
    assert back == before
    assert (await raise_alerts(client, store, candidate(store, "a3"))).alerts[0].created


async def test_settings_that_cannot_be_are_refused(client: AlertServiceAsyncStub, store: str) -> None:
    name = f"{store}/alertSettings"
    for settings, mask, field in (
        (alert_pb2.AlertSettings(name=store), [], "alert_settings.name"),
        (alert_pb2.AlertSettings(name=name), ["window"], "update_mask"),
        (alert_pb2.AlertSettings(name=name, escalation_margin=0), [], "alert_settings.escalation_margin"),
        (
            alert_pb2.AlertSettings(name=name, suppression_window=Duration(seconds=-1)),
            [],
            "alert_settings.suppression_window",
        ),
    ):
        request = alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings, update_mask=FieldMask(paths=mask))
        error = await fails(client.UpdateAlertSettings(request))
        assert isinstance(error, InvalidArgument)
        assert error.violations[0][0] == field
