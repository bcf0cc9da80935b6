"""Targets as a resource."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, common_pb2, delivery_pb2, match_pb2

from alert_svc.delivery.targets import Filter
from mesh.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from mesh.local import Service
from tests.alert_svc.support import fails
from tests.delivery.receiver import Receiver
from tests.delivery.support import SECRET, Client, settled

Hook, Mqtt = delivery_pb2.WebhookTarget, delivery_pb2.MqttTarget


async def update(client: Client, target: delivery_pb2.Target, *paths: str) -> delivery_pb2.Target:
    return await client.delivery.UpdateTarget(
        delivery_pb2.UpdateTargetRequest(target=target, update_mask=FieldMask(paths=paths))
    )


async def test_a_target_is_created_read_listed_changed_and_deleted(client: Client) -> None:
    made = await client.create("b", log=delivery_pb2.LogTarget(), display_name="collector")
    other = await client.create("a", mqtt=Mqtt(topic="alerts"))
    assert made.name == f"{client.store}/targets/b"
    assert made.enabled
    assert made.status.state == delivery_pb2.TARGET_STATE_ACTIVE
    assert await client.get("b") == made
    listed = await client.delivery.ListTargets(delivery_pb2.ListTargetsRequest(parent=client.store, page_size=1))
    assert list(listed.targets) == [other]
    rest = delivery_pb2.ListTargetsRequest(parent=client.store, page_size=1, page_token=listed.next_page_token)
    page = await client.delivery.ListTargets(rest)
    assert (list(page.targets), page.next_page_token) == ([made], "")

    made.display_name = "all of it"
    made.enabled = False
    changed = await update(client, made, "display_name", "enabled")
    assert (changed.display_name, changed.status.state) == ("all of it", delivery_pb2.TARGET_STATE_DISABLED)
    assert changed.etag != made.etag
    assert isinstance(await fails(update(client, made, "display_name")), Aborted)

    stale = delivery_pb2.DeleteTargetRequest(name=made.name, etag=made.etag)
    assert isinstance(await fails(client.delivery.DeleteTarget(stale)), Aborted)
    await client.delivery.DeleteTarget(delivery_pb2.DeleteTargetRequest(name=made.name))
    assert isinstance(await fails(client.get("b")), NotFound)
    assert isinstance(await fails(client.test("b")), NotFound)


async def test_ids_are_made_where_none_is_given_and_taken_once(client: Client) -> None:
    made = await client.create("", log=delivery_pb2.LogTarget())
    again = client.create(made.name.rpartition("/")[2], log=delivery_pb2.LogTarget())
    assert isinstance(await fails(again), AlreadyExists)


async def test_secrets_are_never_shown_and_stay_where_none_is_given(
    client: Client, receiver: Receiver, alert_server: Service
) -> None:
    hook = Hook(url=receiver.url, secret=SECRET, headers={"X-Token": "hidden-value"})
    made = await client.create(webhook=hook)
    assert (made.webhook.secret, dict(made.webhook.headers)) == ("", {})
    assert list(made.webhook.header_names) == ["X-Token"]
    broker = await client.create("m", mqtt=Mqtt(broker_url="mqtt://127.0.0.1:1", topic="a", password="hidden-value"))
    assert broker.mqtt.password == ""

    made.webhook.url = receiver.url + "/moved"
    changed = await update(client, made, "webhook")
    assert changed.webhook.url.endswith("/moved")
    assert (await client.test()).delivered
    assert receiver.posts[0].headers["x-token"] == "hidden-value"
    made.etag = ""
    made.webhook.headers.clear()
    changed = await update(client, made, "webhook.headers")
    assert list(changed.webhook.header_names) == []
    for secret in (SECRET, "hidden-value"):
        assert secret not in alert_server.log_tail(10_000)


async def test_hidden_values_are_not_sent_to_a_server_that_an_update_names(client: Client, receiver: Receiver) -> None:
    hook = Hook(url="https://example.com/hook", secret=SECRET, headers={"Authorization": "hidden-value"})
    made = await client.create(webhook=hook)
    broker = await client.create(
        "m", mqtt=Mqtt(broker_url="mqtt://example.com", topic="a", username="u", password="hidden-value")
    )
    made.etag = broker.etag = ""
    made.webhook.url = receiver.url
    for path in ("webhook", "webhook.url", "*"):
        error = await fails(update(client, made, path))
        assert isinstance(error, InvalidArgument)
        assert [field for field, _ in error.violations] == ["target.webhook.headers"]
    broker.mqtt.broker_url = "mqtt://127.0.0.1:1"
    for path in ("mqtt", "mqtt.broker_url"):
        error = await fails(update(client, broker, path))
        assert isinstance(error, InvalidArgument)
        assert [field for field, _ in error.violations] == ["target.mqtt.password"]

    await update(client, broker, "mqtt.broker_url", "mqtt.password")
    await update(client, made, "webhook.url", "webhook.headers")
    assert (await client.test()).delivered
    assert "authorization" not in receiver.posts[0].headers
    made.webhook.url = "https://example.com/hook"
    made.webhook.headers["Authorization"] = "another"
    assert list((await update(client, made, "webhook")).webhook.header_names) == ["Authorization"]
    broker.mqtt.broker_url = broker.mqtt.username = ""
    assert (await update(client, broker, "mqtt")).mqtt.broker_url == ""


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({}, "target", "none of"),
        ({"webhook": Hook(secret=SECRET)}, "target.webhook.url", "is not a URL"),
        ({"mqtt": Mqtt()}, "target.mqtt.topic", "is needed"),
        ({"webhook": Hook(url="ftp://example.com/", secret=SECRET)}, "target.webhook.url", ""),
        ({"webhook": Hook(url="https://u:p@example.com/", secret=SECRET)}, "target.webhook.url", "user or a password"),
        ({"webhook": Hook(url="https://10.0.0.1/", secret=SECRET)}, "target.webhook.url", "private address"),
        ({"webhook": Hook(url="http://\u2603.example/", secret=SECRET)}, "target.webhook.url", "can be posted to"),
        ({"webhook": Hook(url="http://xn--a/", secret=SECRET)}, "target.webhook.url", "can be posted to"),
        ({"webhook": Hook(url="http://a\x01b/", secret=SECRET)}, "target.webhook.url", "can be posted to"),
        ({"webhook": Hook(url="https://example.com/", secret="short")}, "target.webhook.secret", "16 bytes"),
        ({"webhook": Hook(url="https://example.com/", secret="whsec_!")}, "target.webhook.secret", "base64"),
        (
            {"webhook": Hook(url="https://example.com/", secret=SECRET, headers={"Host": "x"})},
            "target.webhook.headers[Host]",
            "set by the server",
        ),
        (
            {"webhook": Hook(url="https://example.com/", secret=SECRET, headers={"X": "a\r\nb: c"})},
            'target.webhook.headers["X"]',
            "",
        ),
        ({"mqtt": Mqtt(topic="a/#")}, "target.mqtt.topic", ""),
        ({"mqtt": Mqtt(topic="a", username="u")}, "target.mqtt.username", "broker_url"),
        ({"mqtt": Mqtt(topic="a", broker_url="mqtt://10.0.0.1")}, "target.mqtt.broker_url", "private address"),
        (
            {"log": delivery_pb2.LogTarget(), "filter": delivery_pb2.TargetFilter(cameras=["stores/other/cameras/c"])},
            "target.filter.cameras[0]",
            "is not of",
        ),
        (
            {"log": delivery_pb2.LogTarget(), "filter": delivery_pb2.TargetFilter(watchlists=["vip"])},
            "target.filter.watchlists[0]",
            "must look like",
        ),
    ],
)
async def test_what_cannot_be_a_target_is_refused(client: Client, fields: Any, field: str, said: str) -> None:
    error = await fails(client.create(**fields))

    assert isinstance(error, InvalidArgument)
    ((wrong, why),) = error.violations
    assert wrong == field
    assert said in why


async def test_changes_that_make_no_sense_are_refused(client: Client) -> None:
    made = await client.create(log=delivery_pb2.LogTarget())
    for paths in (["name"], ["status"], ["webhook.nonsense"], ["etag"]):
        assert (await fails(update(client, made, *paths))).reason == "INVALID_UPDATE_MASK"
    other = delivery_pb2.Target(name=made.name, mqtt=Mqtt(topic="a"))
    assert (await fails(update(client, other))).reason == "KIND_CHANGED"
    assert (await fails(update(client, other, "*"))).reason == "KIND_CHANGED"


async def test_a_filter_is_replaced_as_a_whole(client: Client) -> None:
    wanted = delivery_pb2.TargetFilter(cameras=[f"{client.store}/cameras/c1"])
    made = await client.create(log=delivery_pb2.LogTarget(), filter=wanted)
    made.filter.CopyFrom(delivery_pb2.TargetFilter(min_severity=common_pb2.SEVERITY_HIGH))
    changed = await update(client, made, "filter")
    assert changed.filter == made.filter
    changed.ClearField("filter")
    assert not (await update(client, changed, "filter")).HasField("filter")


def test_a_filter_passes_what_fits_all_of_its_parts() -> None:
    lists = [f"stores/s/watchlists/{each}" for each in ("vip", "staff", "none")]
    match, other = match_pb2.Match(watchlists=[lists[0]]), match_pb2.Match(watchlists=[lists[1]])
    alert = alert_pb2.Alert(match=match, runners_up=[other])
    for wanted, raised, escalated in (
        (delivery_pb2.TargetFilter(watchlists=lists[:1]), True, True),
        (delivery_pb2.TargetFilter(watchlists=lists[1:]), True, True),
        (delivery_pb2.TargetFilter(watchlists=lists[2:]), False, False),
        (delivery_pb2.TargetFilter(watchlists=lists, events=[alert_pb2.ALERT_EVENT_ESCALATED]), False, True),
    ):
        fits = Filter(wanted)
        assert fits(alert_pb2.ALERT_EVENT_RAISED, alert) is raised
        assert fits(alert_pb2.ALERT_EVENT_ESCALATED, alert) is escalated


async def test_only_dead_letters_can_be_replayed(client: Client, receiver: Receiver) -> None:
    target = await client.webhook(receiver.url)
    await client.raise_numbers(range(1))
    await settled(client, 1, delivery_pb2.DELIVERY_STATE_DELIVERED)
    error = await fails(client.replay(receiver.posts[0].id))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "NOT_DEAD"
    other = target.name.replace("/targets/t", "/targets/u") + "/deliveries/1-0"
    assert (await fails(client.replay(other))).reason == "WRONG_TARGET"


async def test_the_log_says_which_alert_and_nobodys_name(client: Client, alert_server: Service) -> None:
    await client.create(log=delivery_pb2.LogTarget())
    assert (await client.test()).delivered
    (name,) = await client.raise_numbers(range(1))
    await settled(client, 1, delivery_pb2.DELIVERY_STATE_DELIVERED)
    lines = [line for line in alert_server.log_tail(10_000).splitlines() if "alert_delivery" in line]
    assert any(name in line and f"{client.store}/pois/p1" in line for line in lines)
    assert not any("Jo" in line for line in lines), "no names of people"
