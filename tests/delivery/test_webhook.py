"""Webhooks, against an HTTP server that behaves badly."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import socket
import time
from contextlib import ExitStack
from ipaddress import ip_network

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import alert_pb2, common_pb2, delivery_pb2

from alert_svc.delivery.addresses import Guard
from alert_svc.delivery.sender import Message
from alert_svc.delivery.webhook import WebhookSender, tls_context
from mesh.local import Redis
from tests.alert_svc.support import candidate, raise_alerts
from tests.conftest import StartService
from tests.delivery.receiver import CLOSE, HANG, OK, SERVER_ERROR, Post, Receiver, answer, receiving
from tests.delivery.support import HASTY, SECRET, Client, client_of, env, settled
from tests.support import until

PENDING, DELIVERED, DEAD = (
    delivery_pb2.DELIVERY_STATE_PENDING,
    delivery_pb2.DELIVERY_STATE_DELIVERED,
    delivery_pb2.DELIVERY_STATE_DEAD,
)


async def test_an_alert_is_posted_with_a_signature_that_fits(client: Client, receiver: Receiver) -> None:
    hook = delivery_pb2.WebhookTarget(url=receiver.url, secret=SECRET, headers={"Authorization": "Bearer x"})
    await client.create(webhook=hook)
    (name,) = await client.raise_numbers(range(1))
    await client.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann"))
    await receiver.until(lambda: len(receiver.accepted) == 2)

    first, second = receiver.accepted
    assert [post.message["event"] for post in (first, second)] == ["ALERT_EVENT_RAISED", "ALERT_EVENT_ACKNOWLEDGED"]
    assert first.message["alert"]["name"] == second.message["alert"]["name"] == name
    assert first.message["delivery"] == first.id != second.id
    assert first.headers["authorization"] == "Bearer x"
    assert first.headers["content-type"] == "application/json"
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 30
    signed = f"{first.id}.{first.headers['webhook-timestamp']}.".encode() + first.body
    digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert first.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (SERVER_ERROR, "answered 500 Internal Server Error"),
        (CLOSE, "no answer: RemoteProtocolError"),
        (b"nonsense\r\n\r\n", "no answer: RemoteProtocolError"),
        (answer("302 Found", "location: http://127.0.0.1:1/"), "answered 302 Found"),
    ],
    ids=["500", "closes-early", "nonsense", "redirects-to-a-private-address"],
)
async def test_a_bad_answer_is_tried_again_in_order(client: Client, receiver: Receiver, bad: bytes, said: str) -> None:
    await _is_tried_again_in_order(client, receiver, bad, said)


async def test_no_answer_is_tried_again_in_order(
    own_redis: Redis, service: StartService, store: str, receiver: Receiver
) -> None:
    server = service("alert_svc", env(own_redis, **HASTY))
    async with client_of(server.target, store) as client:
        await _is_tried_again_in_order(client, receiver, HANG, "no answer within 0.5 s")
        await client.delete_all()


async def _is_tried_again_in_order(client: Client, receiver: Receiver, bad: bytes, said: str) -> None:
    works = asyncio.Event()
    receiver.behave = lambda post: OK if works.is_set() else bad
    await client.webhook(receiver.url)
    names = await client.raise_numbers(range(5))
    await receiver.until(lambda: len(receiver.posts) >= 3)
    (pending,) = await settled(client, 1, PENDING)
    failing = await client.get()
    works.set()
    await receiver.until(lambda: len(receiver.accepted) == 5)

    assert pending.alert == names[0]
    assert pending.attempt_count >= 1
    assert said in pending.last_error
    assert failing.status.consecutive_failures >= 1
    assert receiver.alerts == names
    assert len({post.id for post in receiver.posts}) == 5, "all attempts of an event must have one id"
    assert len(await settled(client, 5, DELIVERED)) == 5


async def test_an_answer_given_twice_delivers_each_event_once(client: Client, receiver: Receiver) -> None:
    receiver.behave = lambda post: OK + OK
    await client.webhook(receiver.url)
    names = await client.raise_numbers(range(20))
    await receiver.until(lambda: len(receiver.ids) == 20)

    assert receiver.alerts == names
    assert len(await settled(client, 20, DELIVERED)) == 20


async def test_a_redirect_is_not_followed(client: Client, receiver: Receiver) -> None:
    async with receiving(Receiver()) as elsewhere:
        receiver.behave = lambda post: answer("307 Temporary Redirect", f"location: {elsewhere.url}")
        await client.webhook(receiver.url)
        outcome = await client.test()

    assert not outcome.delivered
    assert outcome.error == "answered 307 Temporary Redirect"
    assert elsewhere.posts == []


async def test_retry_after_is_waited_for(client: Client, receiver: Receiver) -> None:
    busy = itertools.chain([answer("429 Too Many Requests", "retry-after: 2")], itertools.repeat(OK))
    times: list[float] = []

    def behave(post: Post) -> bytes:
        times.append(time.monotonic())
        return next(busy)

    receiver.behave = behave
    await client.webhook(receiver.url)
    await client.raise_numbers(range(1))
    await receiver.until(lambda: len(receiver.accepted) == 1)

    assert len(times) == 2
    assert times[1] - times[0] >= 1.9


async def test_a_message_that_is_refused_is_a_dead_letter_and_the_next_goes_on(
    client: Client, receiver: Receiver
) -> None:
    refusing = True
    receiver.behave = lambda post: (
        answer("422 Unprocessable") if refusing and post.message["alert"]["appearance"].endswith("/a1") else OK
    )
    await client.webhook(receiver.url)
    names = await client.raise_numbers(range(3))
    await receiver.until(lambda: len(receiver.accepted) == 2)
    (dead,) = await settled(client, 1, DEAD)
    assert receiver.alerts == [names[0], names[2]]
    assert (dead.alert, dead.attempt_count, dead.last_error) == (names[1], 1, "answered 422 Unprocessable")
    assert (await client.get()).status.dead_letter_count == 1

    refusing = False
    assert await client.replay(dead.name) == 1
    await receiver.until(lambda: len(receiver.accepted) == 3)
    assert receiver.accepted[-1].id == dead.name
    assert await client.replay() == 0
    assert len(await settled(client, 3, DELIVERED)) == 3
    assert await client.deliveries(state=DEAD) == []


async def test_a_broken_target_is_left_alone_and_a_good_test_call_ends_that(
    own_redis: Redis, service: StartService, store: str, receiver: Receiver
) -> None:
    works = asyncio.Event()
    receiver.behave = lambda post: OK if works.is_set() else SERVER_ERROR
    server = service("alert_svc", env(own_redis, POI_ALERT_DELIVERY_BREAKER_SECONDS="3600"))
    async with client_of(server.target, store) as client:
        await client.webhook(receiver.url)
        await client.raise_numbers(range(1))

        async def broken() -> bool:
            return (await client.get()).status.state == delivery_pb2.TARGET_STATE_BROKEN

        await until(broken, "it is broken after five failures")
        assert len(receiver.posts) == 5
        assert "500" in (await client.test()).error
        works.set()
        outcome = await client.test()
        await receiver.until(lambda: len(receiver.accepted) == 2)

        assert outcome.delivered
        assert outcome.latency.ToNanoseconds() > 0
        assert receiver.accepted[0].message["test"] is True
        await settled(client, 1, DELIVERED)
        status = (await client.get()).status
        assert (status.state, status.consecutive_failures) == (delivery_pb2.TARGET_STATE_ACTIVE, 0)
        await client.delete_all()


async def test_a_target_hears_of_what_its_filter_says(client: Client, receiver: Receiver) -> None:
    wanted = delivery_pb2.TargetFilter(
        min_severity=common_pb2.SEVERITY_HIGH,
        cameras=[f"{client.store}/cameras/c1"],
        pois=[f"{client.store}/pois/p1"],
        events=[alert_pb2.ALERT_EVENT_RAISED],
    )
    await client.webhook(receiver.url, filter=wanted)
    raised = await raise_alerts(
        client.alerts,
        client.store,
        candidate(client.store, "a1", "p2"),
        candidate(client.store, "a2", camera="c2"),
        candidate(client.store, "a3", severity=common_pb2.SEVERITY_LOW),
        candidate(client.store, "a4"),
        candidate(client.store, "a5"),
    )
    names = [each.alert for each in raised.alerts]
    await client.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=names[3], actor="ann"))
    names += await client.raise_numbers(range(10, 11))
    await receiver.until(lambda: len(receiver.accepted) == 3)

    assert receiver.alerts == names[3:]


async def test_what_happens_while_disabled_is_not_delivered(client: Client, receiver: Receiver) -> None:
    target = await client.webhook(receiver.url, enabled=False)
    await client.raise_numbers(range(3))
    target.enabled = True
    await client.delivery.UpdateTarget(
        delivery_pb2.UpdateTargetRequest(target=target, update_mask=FieldMask(paths=["enabled"]))
    )
    names = await client.raise_numbers(range(3, 6))
    await receiver.until(lambda: len(receiver.accepted) == 3)

    assert receiver.alerts == names


async def test_a_hung_target_delays_nobody(client: Client, receiver: Receiver) -> None:
    async with receiving(Receiver(behave=lambda post: HANG)) as hung:
        await client.webhook(hung.url, "hung")
        await client.webhook(receiver.url, "fast")
        names = await client.raise_numbers(range(200))
        await receiver.until(lambda: len(receiver.accepted) == 200)

        assert receiver.alerts == names
        assert len(hung.posts) <= 1, "all the others came while it hung"
        assert hung.accepted == []
    assert (await client.get("fast")).status.consecutive_failures == 0


@pytest.mark.timeout(600)
async def test_ten_thousand_alerts_to_a_slow_and_a_fast_target(client: Client, receiver: Receiver) -> None:
    async with receiving(Receiver(delay=1.0)) as slow:
        await client.webhook(slow.url, "slow")
        await client.webhook(receiver.url, "fast")
        names = await client.raise_numbers(range(10_000))
        await receiver.until(lambda: len(receiver.accepted) == 10_000, seconds=480)
        assert receiver.alerts == names
        assert 0 < len(slow.accepted) < 1000
        assert slow.alerts == names[: len(slow.alerts)]
        slow.delay = 0.0
        behind = len(slow.accepted)
        await slow.until(lambda: len(slow.accepted) >= behind + 500)
        assert slow.alerts == names[: len(slow.alerts)]

    async def kept() -> bool:
        return (await client.deliveries("fast", page_size=1000))[0].alert == names[-1]

    await until(kept, "the last delivery is noted")


async def test_an_address_that_does_not_even_refuse_keeps_no_other_from_being_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = Guard([ip_network("127.0.0.0/8")])
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        with ExitStack() as stack:
            for _ in range(4):  # its queue is full: whoever comes later gets no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            hook = delivery_pb2.WebhookTarget(url=f"http://example.test:{port}/", secret=SECRET)
            sender = WebhookSender(hook, guard, tls_context(None), timeout=1.0)

            async def resolve(host: str, port: int) -> list[str]:
                return ["127.0.0.1", "127.0.0.2"]

            monkeypatch.setattr(guard, "resolve", resolve)
            async with receiving(Receiver(port=port, host="127.0.0.2")) as receiver:
                for _ in range(2):
                    await sender.send(Message.test("stores/s/targets/t"))
                assert len(receiver.posts) == 2
            await sender.close()
