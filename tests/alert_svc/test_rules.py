"""Suppression rules: other windows for some lists, cameras and persons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2

from alert_svc.alerts import new_alert
from alert_svc.log import AlertLog
from alert_svc.policy import Policy, Rule, Suppression
from alert_svc.times import now
from alert_svc.triage import RESOLVED, Action
from mesh.errors import InvalidArgument
from mesh.redis import Redis
from tests.alert_svc.support import candidate, fails, raise_alerts

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

NONE: frozenset[str] = frozenset()
POI = alert_pb2.SUPPRESSION_SCOPE_POI


def rule(
    window: float, *, lists: str = "", cameras: str = "", pois: str = "", anywhere: bool = False, store: str = "s1"
) -> alert_pb2.SuppressionRule:
    made = alert_pb2.SuppressionRule(
        watchlists=[f"stores/{store}/watchlists/{each}" for each in lists.split()],
        cameras=[f"stores/{store}/cameras/{each}" for each in cameras.split()],
        pois=[f"stores/{store}/pois/{each}" for each in pois.split()],
        scope=POI if anywhere else alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA,
    )
    made.window.FromMilliseconds(round(window * 1000))
    return made


def with_rules(*rules: alert_pb2.SuppressionRule, window_ms: int = 0) -> Policy:
    return Policy(window_ms=window_ms).updated(alert_pb2.AlertSettings(suppression_rules=rules))


def seen(appearance: str, at_seconds: float = 0, *, lists: str = "", store: str = "s1", **fields: Any) -> Any:
    """The alert that an appearance would raise, of a frame so many seconds after noon."""
    made = candidate(f"stores/{store}", appearance, **fields)
    made.match.watchlists.extend(f"stores/{store}/watchlists/{each}" for each in lists.split())
    made.detect_time.FromNanoseconds(round((1_800_000_000 + at_seconds) * 1e9))
    return new_alert(made, store, now(), "")


def test_the_first_rule_that_fits_holds() -> None:
    policy = with_rules(
        rule(0, lists="violent"),
        rule(60, cameras="c1 c2", pois="p1"),
        rule(600, cameras="c1", anywhere=True),
        window_ms=5_000,
    )
    for alert, wanted in (
        (seen("a", lists="thieves violent"), Suppression(0, per_camera=True)),
        (seen("a", lists="thieves"), Suppression(60_000, per_camera=True)),
        (seen("a", poi="p2"), Suppression(600_000, per_camera=False)),
        (seen("a", poi="p2", camera="c2"), Suppression(5_000, per_camera=True)),
    ):
        assert policy.suppression(alert) == wanted
    assert policy.kept_ms == 600_000 + 3_600_000
    everybody = with_rules(alert_pb2.SuppressionRule(window=Duration(seconds=9)))
    assert everybody.rules == (Rule(NONE, NONE, NONE, Suppression(9_000, per_camera=True)),)


async def test_each_appearance_is_measured_by_its_own_rule(redis_client: Redis, store: str) -> None:
    store_id = store.removeprefix("stores/")
    policy = with_rules(
        rule(0, lists="violent", store=store_id),
        rule(60, cameras="door", anywhere=True, store=store_id),
        rule(600, cameras="till", store=store_id),
        window_ms=10_000,
    )
    log = AlertLog(redis_client, retention_days=7, policy=policy)
    told = []
    for appearance, at, fields in (
        ("a1", 0, {"camera": "aisle"}),
        ("a2", 9, {"camera": "aisle"}),  # the store's own window
        ("a3", 20, {"camera": "till"}),
        ("a4", 50, {"camera": "door"}),  # the same person anywhere: that at the till
        ("a5", 90, {"camera": "door"}),  # a minute after the till's
        ("a6", 119, {"camera": "aisle"}),  # nothing here lately, and only here counts
        ("a7", 600, {"camera": "till"}),
        ("a8", 601, {"camera": "till", "lists": "violent"}),  # every time
    ):
        (raised,) = await log.raise_all(store_id, [seen(appearance, at, store=store_id, **fields)])
        told.append(raised.created)
    assert told == [True, False, True, False, True, True, False, True]


async def test_of_several_open_alerts_the_one_closest_in_time_takes_a_repeat_and_closed_ones_none(
    redis_client: Redis, store: str
) -> None:
    store_id = store.removeprefix("stores/")
    policy = with_rules(rule(60, cameras="door", anywhere=True, store=store_id))
    log = AlertLog(redis_client, retention_days=7, policy=policy)
    aisle, till = (seen(camera, at, camera=camera, store=store_id) for camera, at in (("aisle", 0), ("till", 30)))
    await log.raise_all(store_id, [aisle, till])
    (near,) = await log.raise_all(store_id, [seen("d1", 40, camera="door", store=store_id)])
    assert (near.alert, near.suppressed) == (till.name, True)
    await log.act(till.name, Action(RESOLVED, "ann", "", ""))
    (other,) = await log.raise_all(store_id, [seen("d2", 41, camera="door", store=store_id)])
    assert (other.alert, other.suppressed) == (aisle.name, True)
    await log.act(aisle.name, Action(RESOLVED, "ann", "", ""))
    (fresh,) = await log.raise_all(store_id, [seen("d3", 42, camera="door", store=store_id)])
    assert fresh.created


async def test_clocks_of_cameras_that_are_seconds_apart_change_no_window(redis_client: Redis, store: str) -> None:
    store_id = store.removeprefix("stores/")
    log = AlertLog(redis_client, retention_days=7, policy=Policy(window_ms=60_000, per_camera=False))
    # c2 is 3 s behind and c3 is 3 s ahead: whoever is seen on all within a second is one alert.
    for appearance, at, camera, created in (
        ("a1", 100.0, "c1", True),
        ("a2", 97.5, "c2", False),
        ("a3", 104.0, "c3", False),
        ("a4", 40.5, "c2", False),
        ("a5", 39.9, "c2", True),
    ):
        (raised,) = await log.raise_all(store_id, [seen(appearance, at, camera=camera, store=store_id)])
        assert raised.created is created, appearance


async def test_rules_are_set_read_and_taken_back(client: AlertServiceAsyncStub, store: str) -> None:
    name = f"{store}/alertSettings"
    rules = [
        alert_pb2.SuppressionRule(watchlists=[f"{store}/watchlists/vip"], window=Duration(seconds=3600), scope=POI),
        alert_pb2.SuppressionRule(cameras=[f"{store}/cameras/c9"], window=Duration()),
    ]
    request = alert_pb2.UpdateAlertSettingsRequest(
        alert_settings=alert_pb2.AlertSettings(name=name, suppression_rules=rules),
        update_mask=FieldMask(paths=["suppression_rules"]),
    )
    await client.UpdateAlertSettings(request)
    kept = await client.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=name))
    rules[1].scope = alert_pb2.SUPPRESSION_SCOPE_POI_AND_CAMERA
    assert list(kept.suppression_rules) == rules

    vip = [candidate(store, appearance, camera=appearance) for appearance in ("a1", "a2")]
    for each in vip:
        each.match.watchlists.append(f"{store}/watchlists/vip")
    raised = (await raise_alerts(client, store, *vip, candidate(store, "a3"))).alerts
    assert [each.suppressed for each in raised] == [False, True, False]

    request.alert_settings.ClearField("suppression_rules")
    assert not (await client.UpdateAlertSettings(request)).suppression_rules


async def test_rules_that_cannot_be_are_refused_with_their_place(client: AlertServiceAsyncStub, store: str) -> None:
    name, minute = f"{store}/alertSettings", Duration(seconds=60)
    at = "alert_settings.suppression_rules"
    for wrong, field in (
        (alert_pb2.SuppressionRule(cameras=[f"{store}/cameras/c", "c"], window=minute), f"{at}[1].cameras[1]"),
        (alert_pb2.SuppressionRule(pois=["stores/other/pois/p"], window=minute), f"{at}[1].pois[0]"),
        (alert_pb2.SuppressionRule(watchlists=[f"{store}/pois/p"], window=minute), f"{at}[1].watchlists[0]"),
        (alert_pb2.SuppressionRule(), f"{at}[1].window"),
        (alert_pb2.SuppressionRule(window=Duration(seconds=-1)), f"{at}[1].window"),
    ):
        settings = alert_pb2.AlertSettings(
            name=name, suppression_rules=[alert_pb2.SuppressionRule(window=minute), wrong]
        )
        error = await fails(client.UpdateAlertSettings(alert_pb2.UpdateAlertSettingsRequest(alert_settings=settings)))
        assert isinstance(error, InvalidArgument)
        assert [violation[0] for violation in error.violations] == [field]
    assert not (await client.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=name))).suppression_rules


async def test_an_alert_stays_on_the_lists_it_was_raised_for(redis_client: Redis, store: str) -> None:
    store_id = store.removeprefix("stores/")
    log = AlertLog(redis_client, retention_days=7)
    first = seen("a1", lists="vip", similarity=0.5, store=store_id)
    await log.raise_all(store_id, [first])
    for _ in range(2):
        await log.raise_all(store_id, [seen("a1", lists="staff", similarity=0.7, store=store_id)])
    alert = await log.get(first.name)
    assert [each.rpartition("/")[2] for each in alert.match.watchlists] == ["vip", "staff"]
    assert len(alert.escalations) == 1
